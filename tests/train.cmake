# train/: the data of pretraining, against torchvision on Pillow and the official code.
dinov_unit(data quick dinov_train)
dinov_unit(loader "quick;threads" dinov_train)
dinov_test_program(bench_augment bench/augment.c dinov_train)
dinov_test_program(train_probe train/probe.c dinov_train)
dinov_python(train_augment full train/augment.py $<TARGET_FILE:train_probe>)
if(NOT DINOV_SANITIZE)
    # Distributions are the same in every build.
    dinov_python(train_draws full train/draws.py $<TARGET_FILE:train_probe>)
endif()
