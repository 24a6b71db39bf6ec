# train/ and dinov-train: the step against the official code.
dinov_test_program(train_step train/step.c dinov_train PkgConfig::JANSSON)
target_sources(train_step PRIVATE train/case.c)
dinov_python(train_parity "quick;threads" train/parity.py check $<TARGET_FILE:train_step>)
dinov_unit(trainer "quick;threads" dinov_train)

dinov_test_program(bench_pretrain bench/pretrain.c dinov_train PkgConfig::JANSSON)
target_sources(bench_pretrain PRIVATE train/case.c)
