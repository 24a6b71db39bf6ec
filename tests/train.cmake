# train/ and dinov-train: the step against the official code.
dinov_test_program(train_step train/step.c dinov_train PkgConfig::JANSSON)
dinov_python(train_parity "quick;threads" train/parity.py check $<TARGET_FILE:train_step>)
dinov_unit(trainer "quick;threads" dinov_train)
