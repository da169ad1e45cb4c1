// Group norm, and SiLU after it, of bfloat16 pictures with channels last: (N, places, C). Sums and results in float.
//
// A picture's values are read twice in each direction, the second time from the cache.

#include <math.h>
#include <stdint.h>

typedef uint16_t half;

static inline float wide(half value) {
    union { uint32_t bits; float number; } all = {.bits = (uint32_t)value << 16};
    return all.number;
}

static inline half narrow(float number) {
    union { float number; uint32_t bits; } all = {.number = number};
    return (half)((all.bits + 0x7fff + ((all.bits >> 16) & 1)) >> 16);
}

// (N, C) slope and level of y = silu(slope * x + level), and mean and 1 / deviation of each channel's group.
void group_norm(
    const half *x, const float *weight, const float *bias, int count, int places, int channels, int groups, float eps,
    int silu, half *y, float *slope, float *level, float *mean, float *scale
) {
    const int size = channels / groups;
    for (int n = 0; n < count; n++) {
        const half *from = x + (long)n * places * channels;
        half *to = y + (long)n * places * channels;
        float *a = slope + n * channels, *b = level + n * channels, *m = mean + n * channels, *s = scale + n * channels;
        for (int c = 0; c < channels; c++) a[c] = b[c] = 0;
        for (int p = 0; p < places; p++)
            for (int c = 0; c < channels; c++) {
                const float value = wide(from[p * channels + c]);
                a[c] += value;
                b[c] += value * value;
            }
        for (int g = 0; g < groups; g++) {
            double sum = 0, squares = 0;
            for (int c = g * size; c < (g + 1) * size; c++) sum += a[c], squares += b[c];
            const double middle = sum / (size * (double)places), spread = squares / (size * (double)places) - middle * middle;
            for (int c = g * size; c < (g + 1) * size; c++) {
                m[c] = middle;
                s[c] = 1 / sqrt((spread > 0 ? spread : 0) + eps);
                a[c] = s[c] * weight[c];
                b[c] = bias[c] - m[c] * a[c];
            }
        }
        for (int p = 0; p < places; p++)
            if (silu)
                for (int c = 0; c < channels; c++) {
                    const float z = a[c] * wide(from[p * channels + c]) + b[c];
                    to[p * channels + c] = narrow(z / (1 + expf(-z)));
                }
            else
                for (int c = 0; c < channels; c++) to[p * channels + c] = narrow(a[c] * wide(from[p * channels + c]) + b[c]);
    }
}

static inline float through(float above, float z, int silu) {
    const float gate = 1 / (1 + expf(-z));
    return silu ? above * gate * (1 + z * (1 - gate)) : above;
}

// The gradient of x, and of weight and bias, to which those of all pictures are added. Room for 4 rows of C floats.
void group_norm_gradient(
    const half *above, const half *x, const float *weight, const float *slope, const float *level, const float *mean,
    const float *scale, int count, int places, int channels, int groups, int silu, half *moved, float *of_weight,
    float *of_bias, float *room
) {
    const int size = channels / groups;
    float *plain = room, *along = room + channels, *tilt = room + 2 * channels, *shift = room + 3 * channels;
    for (int n = 0; n < count; n++) {
        const long start = (long)n * places * channels;
        const half *g = above + start, *v = x + start;
        half *to = moved + start;
        const float *a = slope + n * channels, *b = level + n * channels, *m = mean + n * channels, *s = scale + n * channels;
        for (int c = 0; c < channels; c++) plain[c] = along[c] = 0;
        for (int p = 0; p < places; p++)
            for (int c = 0; c < channels; c++) {
                const float value = wide(v[p * channels + c]);
                const float gradient = through(wide(g[p * channels + c]), a[c] * value + b[c], silu);
                plain[c] += gradient;
                along[c] += gradient * value;
            }
        for (int c = 0; c < channels; c++) {
            along[c] = s[c] * (along[c] - m[c] * plain[c]);
            of_weight[c] += along[c];
            of_bias[c] += plain[c];
        }
        for (int group = 0; group < groups; group++) {
            double common = 0, product = 0;
            for (int c = group * size; c < (group + 1) * size; c++) common += weight[c] * plain[c], product += weight[c] * along[c];
            for (int c = group * size; c < (group + 1) * size; c++) {
                tilt[c] = s[c] * s[c] * product / (size * (double)places);
                shift[c] = tilt[c] * m[c] - s[c] * common / (size * (double)places);
            }
        }
        for (int p = 0; p < places; p++)
            for (int c = 0; c < channels; c++) {
                const float value = wide(v[p * channels + c]);
                const float gradient = through(wide(g[p * channels + c]), a[c] * value + b[c], silu);
                to[p * channels + c] = narrow(gradient * a[c] - value * tilt[c] + shift[c]);
            }
    }
}
