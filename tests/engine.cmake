# Kernels, model, engine; the lints; agreement with the official code.
add_executable(kernels_check kernels/check.c)
target_link_libraries(kernels_check PRIVATE dinov_kernels)
set_target_properties(kernels_check PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME kernels_check COMMAND kernels_check)

dinov_unit(engine dinov_infer)
dinov_unit(base dinov_base)
dinov_unit(params dinov_format)
set_tests_properties(kernels_check unit_engine unit_base PROPERTIES LABELS "quick;threads")

foreach(lint layers forbidden headers)
    add_test(NAME ${lint} COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/build/${lint}.sh)
    set_tests_properties(${lint} PROPERTIES LABELS "quick;lint")
endforeach()

dinov_python(parity quick parity/parity.py check $<TARGET_FILE_DIR:dinov-infer>)
dinov_python(example quick cli/example.py $<TARGET_FILE_DIR:dinov-infer>)
dinov_python(readme quick cli/readme.py $<TARGET_FILE_DIR:dinov-infer>)

add_executable(bench_engine bench/engine.c)
target_link_libraries(bench_engine PRIVATE dinov_infer)
set_target_properties(bench_engine PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
