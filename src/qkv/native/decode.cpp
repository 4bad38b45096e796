// One token of a single text through a Transformer: from its id to the logits of the next.
//
//     id ─ embedding, position ─ x
//     x ─┬─ norm ─ convolution ─ W_qkv ─ norm, turn ─ attend to the past ─ W_out ─┐
//        └────────────────────────────────────────────────────────────────────── + ─ x
//     x ─┬─ norm ─ W_up ─ activate ─ W_down ─┐
//        └───────────────────────────────── + ─ x     (both for each block)
//     x ─ norm ─ W_unembed ─ logits
//
// It does what `qkv.models.decode` does with torch's operations, and is tested to equal it. What it
// saves is asking: 140 operations of 1 to 5 µs are longer than reading 10 MB of weights.
//
// A matrix is read as whole numbers, a row of int8 and its step. A vector is rounded to int16 before
// it meets one, so that products and sums are whole numbers too: exact, in any order, and so the
// same on every processor. The compiler makes of that plain loop 64 products an instruction where
// there is VNNI, and nearly reads at the speed of memory where there is none (10.65 MB in one core:
// .35 ms with AVX-512 VNNI, .47 with AVX2, .62 with SSE2; memory alone allows .37 from afar).
//
// This file is compiled once for each kind of processor (`build.py`), each time in a namespace of
// its own: QKV_TARGET. So it calls nothing of the C++ library that could be shared between them.

#include <math.h>
#include <stdint.h>

#define NAMED(name, target) NAMED_(name, target)
#define NAMED_(name, target) name##_##target

namespace {

// What Python hands over, field by field as in `qkv.native.layout`. A null pointer: there is none.
struct Product { const int8_t* weight; const float* steps; const float* bias; int64_t rows, columns; };
struct Norm { const float* weight; const float* bias; double eps; int64_t rms; };
struct Block {
  Norm attention_norm, feed_forward_norm;
  Product project, output, up, gate, down;
  const float* taps;       // of the convolution, the latest token's last: (K, D)
  float* inputs;           // that it saw, of the token at t in row t + K - 1: (T + K - 1, D)
  const float* gain;       // of queries and keys: (H + G, C)
  const float* penalties;  // of each head for the last T keys: (H, T)
  float* keys;             // (G, T, C)
  float* values;           // (G, T, C)
};
struct Model {
  const Block* blocks;
  Norm norm;
  const float* tokens;     // the embedding: (V, D)
  const float* positions;  // (T, D)
  const float* unembed;    // (V, D); none leaves the logits to the caller
  const float* cosine;  // (T, C)
  const float* sine;    // (T, C), the first half negated
  int64_t vocab, layers, width, hidden, context, window, taps, heads, groups, channels, activation;
  double gain_eps, scale, softcap;
  float* scratch;       // see `Scratch`
  int16_t* digits;      // as many as the longest vector before a product has numbers
};
enum Activation : int64_t { RELU2, GELU, GELU_TANH, SWIGLU };

struct Scratch {
  float *normalised, *convolved, *heads, *mixed, *hidden, *gate, *weights;
  explicit Scratch(const Model& m) {
    normalised = m.scratch;
    convolved = normalised + m.width;
    heads = convolved + m.width;
    mixed = heads + (m.heads + 2 * m.groups) * m.channels;
    hidden = mixed + m.heads * m.channels;
    gate = hidden + m.hidden;
    weights = gate + m.hidden;  // and T numbers from there
  }
};

// The nearest whole number, for |x| < 2^22: beyond 2^23 a float has no other.
inline float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }

// e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by its series; within 2e-7 of it.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = rounded(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float series = 1.0f + r * (1.0f / 7);
  series = 1.0f + r * (1.0f / 6) * series;
  series = 1.0f + r * (1.0f / 5) * series;
  series = 1.0f + r * (1.0f / 4) * series;
  series = 1.0f + r * (1.0f / 3) * series;
  series = 1.0f + r * (1.0f / 2) * series;
  series = 1.0f + r * series;
  const union { uint32_t bits; float power; } two = {((uint32_t)(int32_t)n + 127) << 23};
  return series * two.power;
}

// Where it is nearly x the first terms of its series: a difference from 1 would leave no digits.
inline float hyperbolic_tangent(float x) {
  const float square = x * x;
  const float small = x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15)));
  const float large = 1.0f - 2.0f / (exponential(2 * x) + 1.0f);
  return square < 0.01f ? small : large;
}

// Abramowitz and Stegun, 7.1.26: within 1.5e-7.
inline float error_function(float x) {
  const float size = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * size);
  float sum = 1.061405429f;
  sum = sum * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const float value = 1.0f - sum * t * exponential(-size * size);
  return x < 0 ? -value : value;
}

float dot(const float* a, const float* b, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

float root_mean_square(const float* x, int64_t count, double eps) {
  return sqrtf(dot(x, x, count) / count + (float)eps);
}

void normalise(const Norm& norm, const float* x, int64_t width, float* out) {
  float mean = 0, spread;
  if (norm.rms) {
    spread = root_mean_square(x, width, norm.eps);
  } else {
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < width; i++) mean += x[i];
    mean /= width;
    for (int64_t i = 0; i < width; i++) out[i] = x[i] - mean;
    spread = root_mean_square(out, width, norm.eps);
  }
  for (int64_t i = 0; i < width; i++) out[i] = (x[i] - mean) / spread * norm.weight[i];
  if (norm.bias)
    for (int64_t i = 0; i < width; i++) out[i] += norm.bias[i];
}

// Of so many products of an int8 and an int16 the sum fits an int32.
constexpr int64_t SUMMED = 512;

// A vector as whole numbers and the step between them. What isn't finite becomes `lost`, a NaN, else
// 0. What is less than any number that matters is 0, so that no quotient is beyond an int16.
struct Digits { const int16_t* digits; float step, lost; };

Digits round_to_digits(const Model& m, const float* x, int64_t count) {
  float largest = 0, lost = 0;
#pragma omp simd reduction(max : largest) reduction(+ : lost)
  for (int64_t i = 0; i < count; i++) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    largest = size > largest ? size : largest;
    lost += x[i] * 0.0f;
  }
  const float step = lost == 0 && largest > 1e-30f ? largest / INT16_MAX : 1.0f;
  if (lost == 0)
    for (int64_t i = 0; i < count; i++) m.digits[i] = (int16_t)rounded(x[i] / step);
  return {m.digits, step, lost};
}

// Four rows at a time, so that each digit is read once for four products.
void add_rows(const int8_t* rows, int64_t next, const int16_t* digits, int64_t count, int64_t* sums) {
  const int8_t *first = rows, *second = rows + next, *third = second + next, *fourth = third + next;
  int32_t a = 0, b = 0, c = 0, d = 0;
  for (int64_t k = 0; k < count; k++) {
    const int16_t digit = digits[k];
    a += (int16_t)first[k] * digit;
    b += (int16_t)second[k] * digit;
    c += (int16_t)third[k] * digit;
    d += (int16_t)fourth[k] * digit;
  }
  sums[0] += a, sums[1] += b, sums[2] += c, sums[3] += d;
}

// out = W x + bias, or out += W x + bias.
void multiply(const Product& w, const Digits& x, float* out, bool add) {
  for (int64_t row = 0; row < w.rows; row += 4) {
    int64_t sums[4] = {};
    const int64_t rows = w.rows - row < 4 ? w.rows - row : 4;
    const int8_t* weight = w.weight + row * w.columns;
    if (rows == 4) {
      for (int64_t k = 0; k < w.columns; k += SUMMED) {
        const int64_t count = w.columns - k < SUMMED ? w.columns - k : SUMMED;
        add_rows(weight + k, w.columns, x.digits + k, count, sums);
      }
    } else {
      for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < w.columns; k++)
          sums[i] += (int16_t)weight[i * w.columns + k] * x.digits[k];
    }
    for (int64_t i = 0; i < rows; i++) {
      const float y = sums[i] * (w.steps[row + i] * x.step) + x.lost + (w.bias ? w.bias[row + i] : 0);
      out[row + i] = add ? out[row + i] + y : y;
    }
  }
}

void convolve(const Model& m, const Block& b, const float* x, int64_t at, float* out) {
  float* inputs = b.inputs + at * m.width;  // of the K tokens up to this one
  for (int64_t i = 0; i < m.width; i++) inputs[(m.taps - 1) * m.width + i] = x[i], out[i] = 0;
  for (int64_t tap = 0; tap < m.taps; tap++)
    for (int64_t i = 0; i < m.width; i++)
      out[i] += inputs[tap * m.width + i] * b.taps[tap * m.width + i];
}

// Normalise and rotate queries and keys where they are; (p, q) turns to (p c - q s, q c + p s).
void turn(const Model& m, const Block& b, float* heads, int64_t at) {
  const int64_t C = m.channels, half = C / 2;
  const float *cosine = m.cosine + at * C, *sine = m.sine + at * C;
  for (int64_t head = 0; head < m.heads + m.groups; head++) {
    float* x = heads + head * C;
    if (b.gain) {
      const float spread = root_mean_square(x, C, m.gain_eps);
      for (int64_t i = 0; i < C; i++) x[i] = x[i] / spread * b.gain[head * C + i];
    }
    if (!m.cosine) continue;
    for (int64_t i = 0; i < half; i++) {
      const float p = x[i], q = x[i + half];
      x[i] = p * cosine[i] + q * sine[i];
      x[i + half] = q * cosine[i + half] + p * sine[i + half];
    }
  }
}

void attend(const Model& m, const Block& b, const Scratch& s, int64_t at) {
  const int64_t C = m.channels, T = m.context, H = m.heads, G = m.groups;
  const int64_t seen = at + 1 < m.window ? at + 1 : m.window, first = at + 1 - seen;
  for (int64_t i = 0; i < G * C; i++) {
    const int64_t place = (i / C * T + at) * C + i % C;
    b.keys[place] = s.heads[H * C + i];
    b.values[place] = s.heads[(H + G) * C + i];
  }
  for (int64_t head = 0; head < H; head++) {
    const int64_t past = (head / (H / G) * T + first) * C;
    const float *q = s.heads + head * C, *keys = b.keys + past, *values = b.values + past;
    float largest = -INFINITY, total = 0;
    for (int64_t t = 0; t < seen; t++) {
      float score = dot(q, keys + t * C, C) * (float)m.scale;
      if (m.softcap > 0) score = (float)m.softcap * hyperbolic_tangent(score / (float)m.softcap);
      if (b.penalties) score += b.penalties[head * T + T - seen + t];
      s.weights[t] = score;
      largest = score > largest ? score : largest;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < seen; t++) total += s.weights[t] = exponential(s.weights[t] - largest);
    float* mixed = s.mixed + head * C;
    for (int64_t i = 0; i < C; i++) mixed[i] = 0;
    for (int64_t t = 0; t < seen; t++)
      for (int64_t i = 0; i < C; i++) mixed[i] += s.weights[t] / total * values[t * C + i];
  }
}

void activate(const Model& m, float* x, const float* gate) {
  if (m.activation == RELU2) {
    for (int64_t i = 0; i < m.hidden; i++) x[i] = x[i] <= 0 ? 0 : x[i] * x[i];
  } else if (m.activation == GELU) {
    for (int64_t i = 0; i < m.hidden; i++) x[i] *= 0.5f * (1 + error_function(x[i] * 0.70710678f));
  } else if (m.activation == GELU_TANH) {
    for (int64_t i = 0; i < m.hidden; i++) {
      const float inner = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
      x[i] *= 0.5f * (1 + hyperbolic_tangent(inner));
    }
  } else {
    for (int64_t i = 0; i < m.hidden; i++) x[i] *= gate[i] / (1 + exponential(-gate[i]));
  }
}

}  // namespace

// Writes the stream after the last block to x, (D,), and where there is W_unembed the logits, (V,).
extern "C" void NAMED(decode, QKV_TARGET)(const Model* model, int64_t token, int64_t at, float* x,
                                          float* logits) {
  const Model& m = *model;
  const Scratch s(m);
  for (int64_t i = 0; i < m.width; i++)
    x[i] = m.tokens[token * m.width + i] + (m.positions ? m.positions[at * m.width + i] : 0);
  for (int64_t layer = 0; layer < m.layers; layer++) {
    const Block& b = m.blocks[layer];
    normalise(b.attention_norm, x, m.width, s.normalised);
    if (b.taps) convolve(m, b, s.normalised, at, s.convolved);
    multiply(b.project, round_to_digits(m, b.taps ? s.convolved : s.normalised, m.width), s.heads, false);
    turn(m, b, s.heads, at);
    attend(m, b, s, at);
    multiply(b.output, round_to_digits(m, s.mixed, m.heads * m.channels), x, true);

    normalise(b.feed_forward_norm, x, m.width, s.normalised);
    const Digits digits = round_to_digits(m, s.normalised, m.width);
    multiply(b.up, digits, s.hidden, false);
    if (b.gate.weight) multiply(b.gate, digits, s.gate, false);
    activate(m, s.hidden, s.gate);
    multiply(b.down, round_to_digits(m, s.hidden, m.hidden), x, true);
  }
  if (!m.unembed) return;
  normalise(m.norm, x, m.width, s.normalised);
  for (int64_t v = 0; v < m.vocab; v++) logits[v] = dot(m.unembed + v * m.width, s.normalised, m.width);
}
