# What a reader of the source would check by eye.
foreach(lint layers forbidden headers links)
    add_test(NAME ${lint} COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/build/${lint}.sh)
    set_tests_properties(${lint} PROPERTIES LABELS "quick;lint")
endforeach()
dinov_python(error_codes "quick;lint" golden/error_codes.py)
