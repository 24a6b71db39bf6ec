# tests of image: pictures drawn by the tests, the tables of real pictures where that data is present
find_package(ZLIB REQUIRED)
add_executable(image_probe image/probe.c)
target_link_libraries(image_probe PRIVATE dinov_image)
set_target_properties(image_probe PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

set(DINOV_PYTHON_RUN sh -c "exec \"\${DINOV_PYTHON:-python3}\" \"$@\"" python)
foreach(part resize png jpeg eval)
    add_test(NAME image_${part} COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/image/parity.py
                                        $<TARGET_FILE:image_probe> ${part})
    set_tests_properties(image_${part} PROPERTIES LABELS full SKIP_RETURN_CODE 77)
endforeach()

dinov_unit(image dinov_image)
dinov_unit(npy dinov_infer)
dinov_fuzz(jpeg dinov_image)
dinov_fuzz(png dinov_image ZLIB::ZLIB)
dinov_fuzz(npy dinov_infer)

# Real pictures and broken ones, where that data is present; the pipeline from outside.
foreach(part good bad)
    add_test(NAME image_table_${part} COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/image/tables.py
                                              $<TARGET_FILE:image_probe> ${part})
    set_tests_properties(image_table_${part} PROPERTIES LABELS quick SKIP_RETURN_CODE 77)
endforeach()
add_test(NAME infer_cli COMMAND ${DINOV_PYTHON_RUN} ${CMAKE_CURRENT_SOURCE_DIR}/cli/infer.py $<TARGET_FILE:dinov-infer>
                                $<TARGET_FILE:dinov-demo-model> $<TARGET_FILE:dinov-convert>)
set_tests_properties(infer_cli PROPERTIES LABELS "quick;threads" SKIP_RETURN_CODE 77)

# The seeds in fuzz/corpus are drawn by fuzz_seeds; findings join them.
add_executable(fuzz_seeds fuzz/seeds.c)
target_link_libraries(fuzz_seeds PRIVATE JPEG::JPEG PNG::PNG)
set_target_properties(fuzz_seeds PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
if(NOT DINOV_FUZZ)
    foreach(target jpeg png npy)
        add_test(NAME replay_${target} COMMAND fuzz_${target} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${target})
        set_tests_properties(replay_${target} PROPERTIES LABELS quick)
    endforeach()
endif()
