// The safetensors format: u64 N, N bytes of JSON, data. Reading trusts nothing: lengths, offsets, shapes, products,
// holes, overlaps, duplicate names and (for our own files) a crc32 per tensor are checked before a byte is used.
//
// The format has no checksum. Our files carry three kinds of metadata that other readers pass over: "writer": "rope.c";
// "crc32.<name>" of each tensor's bytes; and "crc32.header" of the length and the JSON with that value's own digits set
// to zero. Either of "writer" and "crc32.header" demands the others, so that no single damaged key can switch the
// checks off.
#ifndef ROPE_MODEL_SAFETENSORS_H
#define ROPE_MODEL_SAFETENSORS_H

#include <stdint.h>

#include "core/error.h"
#include "core/real.h"
#include "model/dtype.h"

typedef struct SafetensorsItem {
    const char *name;
    size_t rank, shape[4];
    const real *data;
} SafetensorsItem;

// As F32. metadata: NULL-terminated pairs key, value, or NULL. Adds "format": "pt" and the checksums. Ends with an
// fsync.
bool safetensors_write(const char *path, const SafetensorsItem *items, size_t count, const char *const *metadata,
                       Error *error);
// The same in another format that is written (dtype.h): BF16, rounded to nearest.
bool safetensors_write_as(const char *path, const Dtype *dtype, const SafetensorsItem *items, size_t count,
                          const char *const *metadata, Error *error);

typedef struct Safetensors Safetensors;
Safetensors *safetensors_open(const char *path, Error *error);
size_t safetensors_count(const Safetensors *file);
const char *safetensors_name(const Safetensors *file, size_t index);
const char *safetensors_metadata(const Safetensors *file, const char *key); // NULL if absent
bool safetensors_ours(const Safetensors *file); // written by safetensors_write: header verified, tensors will be
// Shape of a tensor; false if absent.
bool safetensors_shape(const Safetensors *file, const char *name, size_t *rank, size_t shape[4]);
// out (product of the shape) =, converted from F32, F16, BF16 or F64. Absent name, another shape, a wrong checksum or
// a short file: ERROR_CORRUPT naming file and tensor; `out` is then unspecified. Conversions are exact where real holds
// the value (subnormals, infinities and NaN stay what they are), else rounded to nearest.
bool safetensors_read(Safetensors *file, const char *name, size_t rank, const size_t *shape, real *out, Error *error);
void safetensors_close(Safetensors *file);

#endif
