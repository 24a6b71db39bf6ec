# tests of convert
