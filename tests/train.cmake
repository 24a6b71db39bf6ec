# train/ and dinov-train: the step against the official code.
dinov_test_program(train_step train/step.c dinov_train PkgConfig::JANSSON)
target_sources(train_step PRIVATE train/case.c)
dinov_python(train_parity "quick;threads" train/parity.py check $<TARGET_FILE:train_step>)
dinov_unit(config quick dinov_train)
dinov_unit(schedule quick dinov_train)
dinov_python(schedule_values full train/schedule_values.py check)
dinov_unit(trainer "quick;threads" dinov_train)

dinov_test_program(bench_pretrain bench/pretrain.c dinov_train PkgConfig::JANSSON)
target_sources(bench_pretrain PRIVATE train/case.c)
dinov_fuzz(config dinov_train)
# train/: the data of pretraining, against torchvision on Pillow and the official code.
dinov_unit(data "quick;threads" dinov_train)
dinov_test_program(train_probe train/probe.c dinov_train)
dinov_python(train_augment full train/augment.py $<TARGET_FILE:train_probe>)
dinov_python(train_draws full train/draws.py $<TARGET_FILE:train_probe>)
