# kernels/cuda without a GPU: the same .cu files as C++ on the host shim, then whatever stands on a device.
enable_language(CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_EXTENSIONS OFF)

set(CUDA_KERNELS activation attention embed linear norm picture)
list(TRANSFORM CUDA_KERNELS PREPEND ${PROJECT_SOURCE_DIR}/kernels/cuda/)
list(TRANSFORM CUDA_KERNELS APPEND .cu)
set_source_files_properties(${CUDA_KERNELS} PROPERTIES LANGUAGE CXX)
if(NOT DINOV_SANITIZE)
    # The shim is slow: a test suite of it must not be built for debugging.
    set(SHIM_OPTIMISE -O2)
endif()
set(SHIM_OPTIONS -DDINOV_SHIM ${SHIM_OPTIMISE} -ffp-contract=off -fvisibility=hidden
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-unknown-pragmas>" $<$<BOOL:${DINOV_WERROR}>:-Werror>)

add_library(dinov_shim OBJECT kernels/shim/shim.cc kernels/shim/device.cc)
add_library(dinov_shim_kernels OBJECT ${CUDA_KERNELS} ${PROJECT_SOURCE_DIR}/kernels/cuda/table.c
    ${PROJECT_SOURCE_DIR}/kernels/cuda/nvjpeg.c ${PROJECT_SOURCE_DIR}/kernels/cuda/library.c)
foreach(part dinov_shim dinov_shim_kernels)
    set_source_files_properties(${CUDA_KERNELS} PROPERTIES COMPILE_OPTIONS "-xc++")
    target_include_directories(${part} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include kernels/shim)
    target_compile_options(${part} PRIVATE ${SHIM_OPTIONS})
endforeach()

# dinov_shimmed(TARGET): the shim is its device, before whichever one dinov_kernels has.
function(dinov_shimmed target)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:dinov_shim> $<TARGET_OBJECTS:dinov_shim_kernels>)
    target_compile_definitions(${target} PRIVATE DINOV_SHIM)
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX)
endfunction()

# That the shim sees mistakes.
dinov_test_program(shim_faults kernels/shim/faults.cc dinov_base)
target_sources(shim_faults PRIVATE $<TARGET_OBJECTS:dinov_shim>)
target_include_directories(shim_faults PRIVATE kernels/shim ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
target_compile_options(shim_faults PRIVATE ${SHIM_OPTIONS})
add_test(NAME shim_faults COMMAND shim_faults)
set_tests_properties(shim_faults PROPERTIES LABELS "quick")

# Every kernel against the reference.
dinov_test_program(kernels_device kernels/device.c dinov_kernels dinov_image)
dinov_shimmed(kernels_device)
foreach(real F32 BF16 F16)
    add_test(NAME kernels_device_${real} COMMAND kernels_device ${real})
    set_tests_properties(kernels_device_${real} PROPERTIES LABELS "quick")
endforeach()

# The engine on a device, and dinov-infer.
dinov_test_program(unit_remote unit/remote.c PkgConfig::CMOCKA dinov_infer)
dinov_shimmed(unit_remote)
add_test(NAME unit_remote COMMAND unit_remote)
set_tests_properties(unit_remote PROPERTIES LABELS "quick;threads")

# A stand-in for nvJPEG, in a folder of its own for the loader.
set(FAKE_NVJPEG ${CMAKE_BINARY_DIR}/tests/nvjpeg)
add_library(fake_nvjpeg MODULE kernels/fake_nvjpeg.c)
target_include_directories(fake_nvjpeg PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(fake_nvjpeg PRIVATE JPEG::JPEG)
target_compile_options(fake_nvjpeg PRIVATE -fvisibility=default)
set_target_properties(fake_nvjpeg PROPERTIES PREFIX "" OUTPUT_NAME libnvjpeg SUFFIX .so.13 LIBRARY_OUTPUT_DIRECTORY ${FAKE_NVJPEG})
dinov_test_program(unit_nvjpeg unit/nvjpeg.c PkgConfig::CMOCKA dinov_kernels JPEG::JPEG)
dinov_shimmed(unit_nvjpeg)
add_dependencies(unit_nvjpeg fake_nvjpeg)
add_test(NAME unit_nvjpeg COMMAND unit_nvjpeg)
set_tests_properties(unit_nvjpeg PROPERTIES LABELS "quick" ENVIRONMENT LD_LIBRARY_PATH=${FAKE_NVJPEG})

dinov_test_program(infer_shim ${PROJECT_SOURCE_DIR}/cli/dinov_infer.c dinov_cli dinov_cli_model)
dinov_shimmed(infer_shim)
dinov_python(infer_device "quick;threads" cli/device.py $<TARGET_FILE:infer_shim> $<TARGET_FILE:dinov-demo-model> ${FAKE_NVJPEG})

# What tests/gpu/run asks of a device: of the shim, so that it works when it is needed.
dinov_test_program(gpu_bench_shim gpu/bench.c dinov_infer)
dinov_shimmed(gpu_bench_shim)
foreach(verb parity forward ops)
    add_test(NAME gpu_bench_${verb} COMMAND gpu_bench_shim ${verb} tiny)
    set_tests_properties(gpu_bench_${verb} PROPERTIES LABELS "quick")
endforeach()

# The same programs for a real one.
if(DINOV_CUDA)
    dinov_test_program(gpu_bench gpu/bench.c dinov_infer)
    dinov_test_program(gpu_kernels kernels/device.c dinov_kernels dinov_image)
endif()

# Who computes products, on a stand-in for cuBLASLt; and what cuDNN says to our attention, where it is installed.
set(LIBRARIES ${PROJECT_SOURCE_DIR}/kernels/cuda/library.c ${PROJECT_SOURCE_DIR}/kernels/cuda/cublaslt.c
    ${PROJECT_SOURCE_DIR}/kernels/cuda/products.c)
foreach(fake cublaslt driver)
    add_library(fake_${fake} MODULE kernels/fake_${fake}.c)
    target_link_libraries(fake_${fake} PRIVATE dinov_base)
endforeach()
target_compile_options(fake_cublaslt PRIVATE -fvisibility=default)
target_compile_options(fake_driver PRIVATE -fvisibility=default)
target_link_options(fake_cublaslt PRIVATE -Wl,-soname,libcublasLt.so.13)
target_link_options(fake_driver PRIVATE -Wl,-soname,libcuda.so.1)
dinov_test_program(kernels_products kernels/products.c dinov_base m ${CMAKE_DL_LIBS})
target_sources(kernels_products PRIVATE ${LIBRARIES})
add_test(NAME kernels_products COMMAND kernels_products $<TARGET_FILE:fake_cublaslt>)
set_tests_properties(kernels_products PROPERTIES LABELS "quick")

set(DINOV_NVIDIA "" CACHE PATH "Folder of NVIDIA's wheels (cuDNN, cuBLAS, NVRTC), for tests that ask them")
dinov_test_program(kernels_plans kernels/plans.c dinov_base ${CMAKE_DL_LIBS})
target_sources(kernels_plans PRIVATE ${PROJECT_SOURCE_DIR}/kernels/cuda/cudnn.c ${LIBRARIES})
if(DINOV_NVIDIA)
    target_include_directories(kernels_plans SYSTEM PRIVATE ${DINOV_NVIDIA}/cu13/include ${DINOV_NVIDIA}/cudnn/include)
endif()
if(DINOV_CUDA)
    # device.c itself, on a fake runtime.
    dinov_test_program(unit_device unit/device.c PkgConfig::CMOCKA dinov_base)
    target_sources(unit_device PRIVATE ${PROJECT_SOURCE_DIR}/kernels/cuda/device.c kernels/fake_runtime.c)
    target_include_directories(unit_device SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    add_test(NAME unit_device COMMAND unit_device)
    set_tests_properties(unit_device PROPERTIES LABELS "quick;cuda")
    target_include_directories(kernels_plans SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    add_test(NAME kernels_plans COMMAND kernels_plans $<TARGET_FILE:fake_driver> ${DINOV_NVIDIA}/cudnn/lib ${DINOV_NVIDIA}/cu13/lib)
    add_test(NAME ptxas COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/build/ptxas.sh)
    set_tests_properties(kernels_plans ptxas PROPERTIES LABELS "full;cuda" SKIP_RETURN_CODE 77)
    set_tests_properties(infer_cli PROPERTIES LABELS "quick;threads;cuda")
endif()
