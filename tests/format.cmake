# tests of format
dinov_unit(format dinov_format)
dinov_unit(format_damage dinov_format)
dinov_unit(format_faults dinov_format)

# Python tests: the interpreter of the DINOV_PYTHON environment variable, or python3.
set(FORMAT_PYTHON sh -c "exec \"\${DINOV_PYTHON:-python3}\" \"$@\"" sh)

add_executable(ckpt_judge golden/ckpt_judge.c)
target_link_libraries(ckpt_judge PRIVATE dinov_format)
set_target_properties(ckpt_judge PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME golden_vectors COMMAND ${FORMAT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/golden/vectors.py $<TARGET_FILE:ckpt_judge>)
set_tests_properties(golden_vectors PROPERTIES LABELS quick)

# Seeds: the vectors, and what a fuzzer reached beyond them. Findings join the latter.
dinov_fuzz(ckpt dinov_format)
if(NOT DINOV_FUZZ)
    add_test(NAME replay_ckpt COMMAND fuzz_ckpt ${PROJECT_SOURCE_DIR}/spec/vectors ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/ckpt)
    set_tests_properties(replay_ckpt PROPERTIES LABELS quick)
endif()

add_test(NAME golden_error_codes COMMAND ${FORMAT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/golden/error_codes.py)
set_tests_properties(golden_error_codes PROPERTIES LABELS quick)
add_test(NAME golden_safetensors COMMAND ${FORMAT_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/golden/safetensors_package.py)
set_tests_properties(golden_safetensors PROPERTIES LABELS full SKIP_RETURN_CODE 77)

add_executable(bench_verify bench/verify.c)
target_link_libraries(bench_verify PRIVATE dinov_format)
set_target_properties(bench_verify PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
