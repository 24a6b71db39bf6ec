# kernels/, model/, infer/ and dinov-infer: each kernel, the engine, agreement with the official code, the program.
dinov_test_program(kernels_check kernels/check.c dinov_kernels)
target_sources(kernels_check PRIVATE kernels/bench.c kernels/pairs.c kernels/training.c)
add_test(NAME kernels_check COMMAND kernels_check)
set_tests_properties(kernels_check PROPERTIES LABELS "quick;threads")
dinov_test_program(kernels_gradients kernels/gradients.c dinov_kernels)
add_test(NAME kernels_gradients COMMAND kernels_gradients)
set_tests_properties(kernels_gradients PROPERTIES LABELS quick)

dinov_unit(engine "quick;threads" dinov_infer)
dinov_unit(npy quick dinov_infer)
dinov_fuzz(npy dinov_infer)

dinov_python(parity quick parity/parity.py check $<TARGET_FILE_DIR:dinov-infer>)
dinov_python(infer_cli "quick;threads" cli/infer.py $<TARGET_FILE:dinov-infer> $<TARGET_FILE:dinov-demo-model> $<TARGET_FILE:dinov-convert>)
dinov_python(example quick cli/example.py $<TARGET_FILE_DIR:dinov-infer>)
dinov_python(readme quick cli/readme.py $<TARGET_FILE_DIR:dinov-infer>)

dinov_test_program(bench_engine bench/engine.c dinov_infer)
dinov_test_program(bench_peak bench/peak.c dinov_base)
if(NOT DINOV_SANITIZE)
    dinov_python(valgrind full cli/valgrind.py $<TARGET_FILE_DIR:dinov-infer>)
endif()
