# image/: pictures drawn by the tests against Pillow, the tables of real and broken pictures where that data is present.
dinov_unit(image quick dinov_image)
dinov_unit(source quick dinov_image)
dinov_test_program(image_probe image/probe.c dinov_image)
foreach(part resize png jpeg eval)
    dinov_python(image_${part} full image/parity.py $<TARGET_FILE:image_probe> ${part})
endforeach()
foreach(part good bad)
    dinov_python(image_table_${part} quick image/tables.py $<TARGET_FILE:image_probe> ${part})
endforeach()
foreach(part drawn real)
    dinov_python(image_shards_${part} quick image/shards.py $<TARGET_FILE:image_probe> ${part})
endforeach()

dinov_fuzz(jpeg dinov_image)
dinov_fuzz(shard dinov_image)
dinov_fuzz(png dinov_image ZLIB::ZLIB)
# Draws the first seeds of jpeg, png and npy; findings join them.
dinov_test_program(fuzz_seeds fuzz/seeds.c JPEG::JPEG PNG::PNG)
