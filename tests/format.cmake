# base/ and format/: unit tests, the vectors of spec/, the safetensors package.
dinov_unit(base "quick;threads" dinov_base)
dinov_unit(stage quick dinov_base)
dinov_unit(params quick dinov_format)
dinov_unit(format "quick;threads" dinov_format)
dinov_unit(format_damage quick dinov_format)
dinov_unit(format_faults quick dinov_format)
dinov_unit(training quick dinov_format)

dinov_test_program(ckpt_judge golden/ckpt_judge.c dinov_format)
dinov_python(golden_vectors quick golden/vectors.py $<TARGET_FILE:ckpt_judge>)
dinov_python(golden_safetensors full golden/safetensors_package.py)

dinov_fuzz(ckpt dinov_format)
dinov_fuzz(state dinov_format)
dinov_fuzz(manifest dinov_format)
dinov_test_program(bench_verify bench/verify.c dinov_format)
