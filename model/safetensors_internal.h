// What the writer and the reader of safetensors agree on. Private to safetensors_read.c and safetensors_write.c.
#ifndef ROPE_MODEL_SAFETENSORS_INTERNAL_H
#define ROPE_MODEL_SAFETENSORS_INTERNAL_H

#include "model/safetensors.h"

#define SAFETENSORS_WRITER "rope.c"
#define SAFETENSORS_HEADER_CHECKSUM "crc32.header"
#define SAFETENSORS_TENSOR_CHECKSUM "crc32." // + the tensor's name

enum {
    SAFETENSORS_LENGTH_BYTES = 8,
    SAFETENSORS_HEADER_LIMIT = 100000000, // as other readers
    SAFETENSORS_CHECKSUM_DIGITS = 8,
    SAFETENSORS_CHUNK = 1 << 16,          // bytes of a tensor in hand at a time, on the stack
};

// The digits of "crc32.header" in the text of a header as we write it; NULL if they are not there.
char *safetensors_header_digits(char *text, size_t size);
// crc32 over the length (8 bytes) and the text, after its own digits have been set to '0'; leaves them so.
uint32_t safetensors_header_checksum(const unsigned char *length, char *text, size_t size, char *digits);

#endif
