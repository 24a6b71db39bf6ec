# Kernels, model and engine.
add_executable(kernels_check kernels/check.c)
target_link_libraries(kernels_check PRIVATE dinov_kernels)
set_target_properties(kernels_check PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME kernels_check COMMAND kernels_check)
set_tests_properties(kernels_check PROPERTIES LABELS quick)

dinov_unit(engine dinov_infer)
dinov_unit(base dinov_base)
set_tests_properties(kernels_check unit_engine unit_base PROPERTIES LABELS "quick;threads")
