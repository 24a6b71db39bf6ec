# tests of convert, dinov-convert and dinov-ckpt

# Python by the name in DINOV_PYTHON, or python3; scripts exit 77 where a module is absent.
set(DINOV_PYTHON_RUN sh -c "exec \"\${DINOV_PYTHON:-python3}\" \"$@\"" python)
set(CONVERT_TOOLS $<TARGET_FILE:dinov-convert> $<TARGET_FILE:dinov-ckpt>)

add_test(NAME convert_cli COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/cli/convert_cli.py ${CONVERT_TOOLS})
add_test(NAME convert_hostile COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/cli/convert_hostile.py
                                      $<TARGET_FILE:dinov-convert>)
set_tests_properties(convert_cli convert_hostile PROPERTIES LABELS quick)
if(DINOV_SANITIZE)
    # Sanitizers take memory and time of their own.
    set_tests_properties(convert_hostile PROPERTIES ENVIRONMENT DINOV_SANITIZED=1)
endif()
foreach(part formats official)
    add_test(NAME convert_${part} COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/cli/convert_torch.py ${CONVERT_TOOLS} ${part})
    set_tests_properties(convert_${part} PROPERTIES LABELS full SKIP_RETURN_CODE 77)
endforeach()

foreach(target pickle zip pth safetensors)
    dinov_fuzz(${target} dinov_convert)
    # libFuzzer replays with -runs=0; the plain replay program takes folders alone.
    add_test(NAME replay_${target} COMMAND fuzz_${target} $<$<BOOL:${DINOV_FUZZ}>:-runs=0>
                                           ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${target} COMMAND_EXPAND_LISTS)
    set_tests_properties(replay_${target} PROPERTIES LABELS quick)
endforeach()

dinov_unit(convert dinov_convert)
target_compile_definitions(unit_convert PRIVATE DINOV_UNIT_PTH="${CMAKE_CURRENT_SOURCE_DIR}/unit/convert-tiny.pth")
