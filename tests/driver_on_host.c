/* A stand-in for NVIDIA's driver library in test_cuda_driver.py: memory of the host, and a clock that
   goes half a millisecond ahead whenever it is read. It is compiled against the driver's own
   header, so the compiler checks that these are the driver's prototypes; the header's macros give them the names that the library has. */
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

static double clock_ms = 0;

static CUresult expect(int as_it_must_be) { return as_it_must_be ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

static CUresult made(void **object) {
    *object = calloc(1, sizeof(double));
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags) { return expect(flags == 0); }
CUresult cuGetErrorString(CUresult error, const char **text) { *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "invalid"; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 12060; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = getenv("NO_DEVICE") ? 0 : 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = 41; return expect(ordinal == 0); }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) { strncpy(name, "Orin", size); return expect(device == 41); }
CUresult cuDeviceGetPCIBusId(char *name, int size, CUdevice device) { strncpy(name, "0000:01:00.0", size); return expect(device == 41); }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 7;
    return expect(device == 41 && (*value == 8 || attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
}
CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) { return expect(device == 41 && flags == CU_CTX_SCHED_SPIN); }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { (void)device; return made((void **)context); }
CUresult cuCtxSetCurrent(CUcontext context) { return expect(context != NULL); }
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
    if (size > (size_t)1 << 40)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *address = (CUdeviceptr)malloc(size);
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr address) { free((void *)address); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t size) { memcpy((void *)to, from, size); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t size) { memcpy(to, (void *)from, size); return CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) { return flags == CU_STREAM_NON_BLOCKING ? made((void **)stream) : expect(0); }
CUresult cuStreamSynchronize(CUstream stream) { return expect(stream != NULL); }
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) { return expect(stream != NULL && mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL); }
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) { (void)stream; return made((void **)graph); }
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) { return graph && !flags ? made((void **)exec) : expect(0); }
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) { return expect(exec != NULL && stream != NULL); }
CUresult cuGraphDestroy(CUgraph graph) { free(graph); return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec exec) { free(exec); return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *event, unsigned int flags) { return flags == CU_EVENT_DEFAULT ? made((void **)event) : expect(0); }
CUresult cuEventRecord(CUevent event, CUstream stream) { *(double *)event = clock_ms += 0.5; return expect(stream != NULL); }
CUresult cuEventSynchronize(CUevent event) { return expect(event != NULL); }
#undef cuEventElapsedTime /* newer headers call another name by default; the old one stays in the library */
CUresult cuEventElapsedTime(float *ms, CUevent begin, CUevent end) { *ms = (float)(*(double *)end - *(double *)begin); return CUDA_SUCCESS; }
