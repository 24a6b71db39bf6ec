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
