# convert/, dinov-convert and dinov-ckpt: honest and hostile files, PyTorch, the official model.
set(CONVERT_TOOLS $<TARGET_FILE:dinov-convert> $<TARGET_FILE:dinov-ckpt>)

dinov_unit(convert quick dinov_convert)
dinov_unit(files quick dinov_convert)
dinov_unit(onnx quick dinov_convert)
target_compile_definitions(unit_convert PRIVATE DINOV_UNIT_PTH="${CMAKE_CURRENT_SOURCE_DIR}/unit/convert-tiny.pth"
                                                 DINOV_UNIT_ONNX="${CMAKE_CURRENT_SOURCE_DIR}/cli/onnx")
dinov_python(convert_cli quick cli/convert_cli.py ${CONVERT_TOOLS})
dinov_python(convert_names quick cli/convert_names.py ${CONVERT_TOOLS})
dinov_python(convert_hostile quick cli/convert_hostile.py $<TARGET_FILE:dinov-convert>)
dinov_python(convert_formats full cli/convert_torch.py ${CONVERT_TOOLS} formats)
dinov_test_program(repack cli/repack.c dinov_convert)
dinov_python(convert_pth full cli/convert_pth.py ${CONVERT_TOOLS} $<TARGET_FILE:dinov-demo-model> $<TARGET_FILE:repack>)
dinov_python(convert_official full cli/convert_torch.py ${CONVERT_TOOLS} official)

dinov_python(convert_onnx_small quick cli/convert_onnx_small.py ${CONVERT_TOOLS})
dinov_python(convert_onnx full cli/convert_onnx.py $<TARGET_FILE:dinov-convert> $<TARGET_FILE:dinov-infer>)

foreach(target pickle zip pth legacy safetensors hfjson names onnx onnxdata)
    dinov_fuzz(${target} dinov_convert)
endforeach()
add_library(fake_ort MODULE cli/fake_ort.c)
target_compile_options(fake_ort PRIVATE -fvisibility=default -Wno-pedantic)
set_target_properties(fake_ort PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
dinov_python(onnx_out quick cli/onnx_out.py $<TARGET_FILE_DIR:dinov-convert> $<TARGET_FILE:fake_ort>)
dinov_python(onnx_graph full parity/onnx_graph.py check $<TARGET_FILE_DIR:dinov-convert>)
dinov_python(onnx_graph_older full parity/onnx_graph.py older $<TARGET_FILE_DIR:dinov-convert>)
