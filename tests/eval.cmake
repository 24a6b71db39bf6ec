# eval/ and dinov-eval: k-NN and the linear probe against the official code, the program.
dinov_test_program(eval_probe eval/probe.c dinov_eval)
dinov_unit(eval "quick;threads" dinov_eval)
dinov_python(eval_parity quick eval/parity.py check $<TARGET_FILE:eval_probe> $<TARGET_FILE:dinov-eval>)
dinov_python(eval_cli quick cli/eval.py $<TARGET_FILE_DIR:dinov-eval>)
if(NOT DINOV_SANITIZE)
    # A figure, which sanitizers take minutes for; unit_eval runs the same code under them.
    dinov_python(eval_known full eval/known.py $<TARGET_FILE:dinov-eval>)
endif()
dinov_python(demo full cli/demo.py $<TARGET_FILE_DIR:dinov-eval>)
