# ONNX Runtime for a program in C++: its headers, its library, and the library beside the program under the name it will be asked for by.
#
# ONNXRUNTIME_INCLUDE_DIR  folder of onnxruntime_c_api.h
# ONNXRUNTIME_LIB_DIR      folder of libonnxruntime.so (that of the Python package will do: onnxruntime/capi)

find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h PATH_SUFFIXES onnxruntime onnxruntime/core/session)
if(NOT EXISTS "${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h")
  message(FATAL_ERROR "onnxruntime_c_api.h was not found: name its folder with -DONNXRUNTIME_INCLUDE_DIR=FOLDER. "
                      "Each release of ONNX Runtime has it in the folder include of its archives; the Python package has not.")
endif()

file(GLOB libraries "${ONNXRUNTIME_LIB_DIR}/libonnxruntime.so*")  # the Python package's has its version in its name
if(libraries)
  list(GET libraries 0 library)
else()
  find_library(ONNXRUNTIME_LIBRARY onnxruntime)
  set(library "${ONNXRUNTIME_LIBRARY}")
endif()
if(NOT library)
  message(FATAL_ERROR "libonnxruntime.so was not found: name its folder with -DONNXRUNTIME_LIB_DIR=FOLDER, such as site-packages/onnxruntime/capi.")
endif()
get_filename_component(library "${library}" REALPATH)
execute_process(COMMAND "${CMAKE_READELF}" -d "${library}" OUTPUT_VARIABLE dynamic ERROR_QUIET)
if(dynamic MATCHES "soname: \\[([^]]+)\\]")
  set(soname "${CMAKE_MATCH_1}")  # what the executable will ask for, whatever the file was called
else()
  get_filename_component(soname "${library}" NAME)
endif()

# The program in `folder`, with the library.
function(with_onnxruntime program folder)
  target_compile_features(${program} PRIVATE cxx_std_17)
  target_compile_options(${program} PRIVATE -Wall -Wextra)
  target_include_directories(${program} SYSTEM PRIVATE "${ONNXRUNTIME_INCLUDE_DIR}")
  target_link_libraries(${program} PRIVATE "${library}")
  target_link_options(${program} PRIVATE "$<$<CONFIG:Release>:-s>")
  if(ANDROID)
    target_link_options(${program} PRIVATE "-Wl,-z,max-page-size=16384")  # newer phones have pages of 16 kB
  endif()
  set_target_properties(${program} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${folder}"
    INSTALL_RPATH "$ORIGIN"
    BUILD_WITH_INSTALL_RPATH ON)
  add_custom_command(TARGET ${program} POST_BUILD
    COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${library}" "$<TARGET_FILE_DIR:${program}>/${soname}")
endfunction()
