# convert/, dinov-convert and dinov-ckpt: honest and hostile files, PyTorch, the official model.
set(CONVERT_TOOLS $<TARGET_FILE:dinov-convert> $<TARGET_FILE:dinov-ckpt>)

dinov_unit(convert quick dinov_convert)
target_compile_definitions(unit_convert PRIVATE DINOV_UNIT_PTH="${CMAKE_CURRENT_SOURCE_DIR}/unit/convert-tiny.pth")
dinov_unit(fence quick dinov_convert)
set(UNIT_SANITIZED 0)
if(DINOV_SANITIZE)
    set(UNIT_SANITIZED 1)
endif()
target_compile_definitions(unit_fence PRIVATE DINOV_UNIT_PTH="${CMAKE_CURRENT_SOURCE_DIR}/unit/convert-tiny.pth"
                           UNIT_SANITIZED=${UNIT_SANITIZED})
dinov_python(convert_cli quick cli/convert_cli.py ${CONVERT_TOOLS})
dinov_python(convert_hostile quick cli/convert_hostile.py $<TARGET_FILE:dinov-convert>)
dinov_python(convert_formats full cli/convert_torch.py ${CONVERT_TOOLS} formats)
dinov_test_program(repack cli/repack.c dinov_convert)
dinov_python(convert_pth full cli/convert_pth.py ${CONVERT_TOOLS} $<TARGET_FILE:dinov-demo-model> $<TARGET_FILE:repack>)
dinov_python(convert_official full cli/convert_torch.py ${CONVERT_TOOLS} official)

foreach(target pickle zip pth legacy safetensors carry)
    dinov_fuzz(${target} dinov_convert)
endforeach()
