/* A k2cp/1 engine in C11 without dependencies: int4_unpack, int4_linear, rms_norm and route.
   cc -O2 -o engine engine.c -lm

   The kit writes the JSON, so fields are found by their names; a product would use a parser. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { void *data; long rows, columns; char dtype[8]; } Array;
static char line[1 << 20], *header, *body; /* the question, the input file's header and its bytes */
static FILE *out; static char entries[4096]; static long written; /* the output file being built */

static double number(const char *key, double fallback) {
    char pattern[64]; snprintf(pattern, sizeof pattern, "\"%s\": ", key);
    char *at = strstr(line, pattern);
    return at ? strtod(at + strlen(pattern), NULL) : fallback;
}

static int text(const char *key, char *into, size_t size) {
    char pattern[64]; snprintf(pattern, sizeof pattern, "\"%s\": \"", key);
    char *at = strstr(line, pattern); if (!at) return 0;
    at += strlen(pattern);
    size_t n = strcspn(at, "\""); if (n >= size) return 0;
    memcpy(into, at, n); into[n] = 0;
    return 1;
}

static int open_inputs(const char *path) {
    FILE *file = fopen(path, "rb"); uint64_t length; if (!file) return 0;
    fseek(file, 0, SEEK_END); long size = ftell(file); rewind(file);
    if (size < 8 || fread(&length, 8, 1, file) != 1 || (long)length > size - 8) return fclose(file), 0;
    free(header); header = malloc(size - 8 + 1);
    size_t got = fread(header, 1, size - 8, file); fclose(file);
    body = header + length; /* the header ends in a brace, so searches stop there */
    return got == (size_t)size - 8;
}

static Array array(const char *name) { /* safetensors: {"x_TD":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}} */
    Array a = {0}; char pattern[64]; snprintf(pattern, sizeof pattern, "\"%s\":{", name);
    char *at = strstr(header, pattern); if (!at) return a;
    sscanf(strstr(at, "\"dtype\":\"") + 9, "%7[A-Z0-9]", a.dtype);
    a.rows = 1; a.columns = 1;
    char *shape = strstr(at, "\"shape\":[") + 9;
    if (sscanf(shape, "%ld,%ld", &a.rows, &a.columns) == 1) { a.columns = a.rows; a.rows = 1; }
    a.data = body + strtol(strstr(at, "\"data_offsets\":[") + 16, NULL, 10);
    return a;
}

static float value(Array a, long i) { /* float32, or bfloat16, whose bits are the upper half of a float32 */
    if (!strcmp(a.dtype, "F32")) return ((float *)a.data)[i];
    uint32_t bits = (uint32_t)((uint16_t *)a.data)[i] << 16; float f; memcpy(&f, &bits, 4);
    return f;
}

static void add(const char *name, const char *dtype, long rows, long columns, long bytes) {
    size_t at = strlen(entries);
    snprintf(entries + at, sizeof entries - at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld,%ld],\"data_offsets\":[%ld,%ld]}",
             at ? "," : "{", name, dtype, rows, columns, written, written + bytes);
    written += bytes;
}

static void write_outputs(const char *path, const void **parts, const long *bytes, int count) {
    strcat(entries, "}");
    uint64_t length = strlen(entries);
    out = fopen(path, "wb"); fwrite(&length, 8, 1, out); fwrite(entries, 1, length, out);
    for (int i = 0; i < count; i++) fwrite(parts[i], 1, bytes[i], out);
    fclose(out);
}

static void finish(const char *path, const char *name, const char *dtype, long rows, long columns, int width, void *data) {
    long bytes = rows * columns * width; const void *parts[] = {data};
    add(name, dtype, rows, columns, bytes); write_outputs(path, parts, &bytes, 1); free(data);
}

static int code(Array packed, long row, long i) { /* eight to a word, the lowest bits first, stored + 8 */
    return (int)(((uint32_t *)packed.data)[row * packed.columns + i / 8] >> 4 * (i % 8) & 15) - 8;
}

static void unpack(const char *path) {
    Array packed = array("packed_MP"); long L = (long)number("columns", 0);
    int8_t *codes = malloc(packed.rows * L);
    for (long m = 0; m < packed.rows; m++) for (long i = 0; i < L; i++) codes[m * L + i] = code(packed, m, i);
    finish(path, "codes_ML", "I8", packed.rows, L, 1, codes);
}

static void int4_linear(const char *path) {
    Array x = array("x_TL"), packed = array("packed_MP"), scale = array("scale_MG");
    long size = (long)number("group_size", 32), M = packed.rows, L = x.columns;
    float *y = calloc(x.rows * M, 4);
    for (long t = 0; t < x.rows; t++) for (long m = 0; m < M; m++) for (long g = 0; g < scale.columns; g++) {
        float sum = 0;
        for (long i = g * size; i < L && i < (g + 1) * size; i++) sum += value(x, t * L + i) * code(packed, m, i);
        y[t * M + m] += value(scale, m * scale.columns + g) * sum;
    }
    finish(path, "out_TM", "F32", x.rows, M, 4, y);
}

static void rms_norm(const char *path) {
    Array x = array("x_TD"), gain = array("gain_D"); long D = x.columns; double eps = number("eps", 1e-6);
    float *y = malloc(x.rows * D * 4);
    for (long t = 0; t < x.rows; t++) {
        double square = 0;
        for (long d = 0; d < D; d++) square += (double)value(x, t * D + d) * value(x, t * D + d);
        float inverse = (float)(1 / sqrt(square / D + eps));
        for (long d = 0; d < D; d++) y[t * D + d] = value(x, t * D + d) * inverse * value(gain, d);
    }
    finish(path, "out_TD", "F32", x.rows, D, 4, y);
}

static void route(const char *path) { /* one group, as in every Kimi K2 */
    Array logits = array("logits_TE"), bias = array("bias_E"); long T = logits.rows, E = logits.columns;
    long K = (long)number("top_k", 8); double scale = number("scale", 1);
    int64_t *chosen = malloc(T * K * 8); float *weights = malloc(T * K * 4), *score = malloc(E * 4); char *taken = malloc(E);
    for (long t = 0; t < T; t++) {
        float sum = 0; memset(taken, 0, E);
        for (long e = 0; e < E; e++) score[e] = 1 / (1 + expf(-value(logits, t * E + e)));
        for (long k = 0; k < K; k++) {
            long best = -1; /* the first of equals: a later one must be larger */
            for (long e = 0; e < E; e++)
                if (!taken[e] && (best < 0 || score[e] + value(bias, e) > score[best] + value(bias, best))) best = e;
            taken[best] = 1; chosen[t * K + k] = best; sum += weights[t * K + k] = score[best];
        }
        for (long k = 0; k < K; k++) weights[t * K + k] *= (float)scale / sum;
    }
    add("experts_TK", "I64", T, K, T * K * 8); add("weights_TK", "F32", T, K, T * K * 4);
    const void *parts[] = {chosen, weights}; long bytes[] = {T * K * 8, T * K * 4};
    write_outputs(path, parts, bytes, 2); free(chosen); free(weights); free(score); free(taken);
}

int main(void) {
    char command[32], operation[32], inputs[4096], outputs[4096];
    while (fgets(line, sizeof line, stdin)) {
        const char *answer = "{\"result\": {}}"; *entries = 0; written = 0;
        if (!text("cmd", command, sizeof command)) answer = "{\"errored\": {\"message\": \"no cmd\"}}";
        else if (!strcmp(command, "hello"))
            answer = "{\"result\": {\"name\": \"example-c\", \"version\": \"1.0\", \"precision\": \"f32\", "
                     "\"ops\": [\"int4_unpack\", \"int4_linear\", \"rms_norm\", \"route\"]}}";
        else if (!strcmp(command, "op") && text("op", operation, sizeof operation)
                 && text("inputs", inputs, sizeof inputs) && text("outputs", outputs, sizeof outputs) && open_inputs(inputs)) {
            if (!strcmp(operation, "int4_unpack")) unpack(outputs);
            else if (!strcmp(operation, "int4_linear")) int4_linear(outputs);
            else if (!strcmp(operation, "rms_norm")) rms_norm(outputs);
            else if (!strcmp(operation, "route") && number("n_group", 1) == 1) route(outputs);
            else answer = "{\"skipped\": {\"reason\": \"not implemented\"}}";
        } else if (strcmp(command, "bye")) answer = "{\"skipped\": {\"reason\": \"operations only\"}}";
        puts(answer); fflush(stdout);
        if (!strcmp(command, "bye")) return 0;
    }
}
