# tests of format
dinov_unit(format dinov_format)
