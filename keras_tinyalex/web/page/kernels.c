// The layers of AlexNetMini for WebAssembly with SIMD; network.js calls them.
//
// kernels.wasm is built from this file, with `pip install ziglang==0.17.1`:
//
//     python -m ziglang cc -target wasm32-freestanding -mcpu=generic+simd128 -O3 \
//         -nostdlib -Wl,--no-entry -Wl,--export=__heap_base -Wl,--strip-all \
//         kernels.c -o kernels.wasm
//
// A map of activations is float32, rows by columns by channels. It has a border of
// zeros, one pixel wide, which is the padding of the convolutions, and its channels
// are padded with zeros to a multiple of 8. Pointers are to the corner of the border.

#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define LANES 8   // channels that are computed at once
#define PIXELS 4  // pixels of a row that are computed at once

__attribute__((import_module("page"), import_name("power")))
extern float power(float base, float exponent);

// A 3x3 convolution with bias, and ReLU if asked for.
//
// kernel: integers as float32, [channels_out / 8][3][3][channels_in][8].
// scale, bias: by output channel; the sum is multiplied by the scale.
EXPORT(convolve)
void convolve(const float *in, const float *kernel, const float *scale,
              const float *bias, float *out, int height, int width, int channels_in,
              int channels_out, int relu) {
  const int row_in = (width + 2) * channels_in, row_out = (width + 2) * channels_out;
  const v128_t zero = wasm_f32x4_splat(0);
  for (int channel = 0; channel < channels_out; channel += LANES) {
    const v128_t scale0 = wasm_v128_load(scale + channel);
    const v128_t scale1 = wasm_v128_load(scale + channel + 4);
    const v128_t bias0 = wasm_v128_load(bias + channel);
    const v128_t bias1 = wasm_v128_load(bias + channel + 4);
    for (int y = 0; y < height; y++) {
      // The last pixels may lie beyond the row: they are computed, and not stored.
      for (int x = 0; x < width; x += PIXELS) {
        v128_t sums[PIXELS][2];
        for (int p = 0; p < PIXELS; p++) sums[p][0] = sums[p][1] = zero;
        const float *weights = kernel + channel * 9 * channels_in;
        for (int dy = 0; dy < 3; dy++) {
          // Three neighbors in a row and their channels lie one after another.
          const float *pixels = in + (y + dy) * row_in + x * channels_in;
          for (int i = 0; i < 3 * channels_in; i++, weights += LANES) {
            const v128_t weights0 = wasm_v128_load(weights);
            const v128_t weights1 = wasm_v128_load(weights + 4);
            for (int p = 0; p < PIXELS; p++) {
              const v128_t value = wasm_v128_load32_splat(pixels + i + p * channels_in);
              sums[p][0] = wasm_f32x4_add(sums[p][0], wasm_f32x4_mul(value, weights0));
              sums[p][1] = wasm_f32x4_add(sums[p][1], wasm_f32x4_mul(value, weights1));
            }
          }
        }
        const int count = width - x < PIXELS ? width - x : PIXELS;
        float *target = out + (y + 1) * row_out + (x + 1) * channels_out + channel;
        for (int p = 0; p < PIXELS; p++) {
          if (p >= count) break;
          v128_t value0 = wasm_f32x4_add(wasm_f32x4_mul(sums[p][0], scale0), bias0);
          v128_t value1 = wasm_f32x4_add(wasm_f32x4_mul(sums[p][1], scale1), bias1);
          if (relu) {
            value0 = wasm_f32x4_max(value0, zero);
            value1 = wasm_f32x4_max(value1, zero);
          }
          wasm_v128_store(target + p * channels_out, value0);
          wasm_v128_store(target + p * channels_out + 4, value1);
        }
      }
    }
  }
}

// Local response normalization, in place: x / (bias + alpha * sum) ** beta, where the
// sum is that of the squares of the channels up to `radius` away.
//
// scratch: zeros, channels + 2 * radius of them; the first and last `radius` stay so.
EXPORT(normalize)
void normalize(float *map, float *scratch, int height, int width, int channels,
               int radius, float bias, float alpha, float beta) {
  for (int y = 1; y <= height; y++) {
    for (int x = 1; x <= width; x++) {
      float *pixel = map + (y * (width + 2) + x) * channels;
      for (int c = 0; c < channels; c += 4) {
        const v128_t value = wasm_v128_load(pixel + c);
        wasm_v128_store(scratch + radius + c, wasm_f32x4_mul(value, value));
      }
      for (int c = 0; c < channels; c += 4) {
        v128_t sum = wasm_v128_load(scratch + c);
        for (int i = 1; i <= 2 * radius; i++) {
          sum = wasm_f32x4_add(sum, wasm_v128_load(scratch + c + i));
        }
        v128_t base = wasm_f32x4_add(wasm_f32x4_mul(sum, wasm_f32x4_splat(alpha)),
                                     wasm_f32x4_splat(bias));
        if (beta == 0.5f) {
          base = wasm_f32x4_sqrt(base);
        } else {
          base = wasm_f32x4_make(power(wasm_f32x4_extract_lane(base, 0), beta),
                                 power(wasm_f32x4_extract_lane(base, 1), beta),
                                 power(wasm_f32x4_extract_lane(base, 2), beta),
                                 power(wasm_f32x4_extract_lane(base, 3), beta));
        }
        wasm_v128_store(pixel + c, wasm_f32x4_div(wasm_v128_load(pixel + c), base));
      }
    }
  }
}

// Multiplies each channel by its scale and adds its bias, in place.
EXPORT(affine)
void affine(float *map, const float *scale, const float *bias, int height, int width,
            int channels) {
  for (int y = 1; y <= height; y++) {
    for (int x = 1; x <= width; x++) {
      float *pixel = map + (y * (width + 2) + x) * channels;
      for (int c = 0; c < channels; c += 4) {
        const v128_t value = wasm_v128_load(pixel + c);
        wasm_v128_store(pixel + c,
                        wasm_f32x4_add(wasm_f32x4_mul(value, wasm_v128_load(scale + c)),
                                       wasm_v128_load(bias + c)));
      }
    }
  }
}

// The maximum of each 2x2 pixels; a last odd row or column is left out.
EXPORT(pool)
void pool(const float *in, float *out, int height, int width, int channels) {
  const int row = (width + 2) * channels;
  for (int y = 0; y < height / 2; y++) {
    for (int x = 0; x < width / 2; x++) {
      const float *pixel = in + (2 * y + 1) * row + (2 * x + 1) * channels;
      float *target = out + ((y + 1) * (width / 2 + 2) + x + 1) * channels;
      for (int c = 0; c < channels; c += 4) {
        const v128_t upper = wasm_f32x4_max(wasm_v128_load(pixel + c),
                                            wasm_v128_load(pixel + channels + c));
        const v128_t lower = wasm_f32x4_max(wasm_v128_load(pixel + row + c),
                                            wasm_v128_load(pixel + row + channels + c));
        wasm_v128_store(target + c, wasm_f32x4_max(upper, lower));
      }
    }
  }
}

// A dense layer with bias, and ReLU if asked for.
//
// kernel: [inputs][units], as Keras has it. out, scale, bias: `units` of them.
EXPORT(dense)
void dense(const float *in, const signed char *kernel, const float *scale,
           const float *bias, float *out, int inputs, int units, int relu) {
  for (int u = 0; u < units; u++) out[u] = 0;
  for (int i = 0; i < inputs; i++, kernel += units) {
    if (in[i] == 0) continue;  // as about half of them are, after ReLU
    const v128_t value = wasm_f32x4_splat(in[i]);
    int u = 0;
    for (; u + 8 <= units; u += 8) {
      const v128_t weights = wasm_i16x8_load8x8(kernel + u);
      const v128_t weights0 = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(weights));
      const v128_t weights1 = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(weights));
      wasm_v128_store(out + u, wasm_f32x4_add(wasm_v128_load(out + u),
                                              wasm_f32x4_mul(value, weights0)));
      wasm_v128_store(out + u + 4, wasm_f32x4_add(wasm_v128_load(out + u + 4),
                                                  wasm_f32x4_mul(value, weights1)));
    }
    for (; u < units; u++) out[u] += in[i] * kernel[u];
  }
  for (int u = 0; u < units; u++) {
    const float value = out[u] * scale[u] + bias[u];
    out[u] = relu && value < 0 ? 0 : value;
  }
}
