// The network: a list of layers, run one after the other. What the list says is written by draw_page.py.
//
// A value between two layers is {height, width, channels, values}: pixel by pixel, the channels of one pixel
// side by side, float32 as in training. Sums are taken in double precision and rounded once.

const OPERATIONS = {
  /** Stride 1, zeros around, the size stays. Kernels are [rows, columns, channels, features]. */
  conv(x, { kernel, bias }, [rows, columns, , features]) {
    const { height, width, channels } = x;
    const out = volume(height, width, features);
    const sums = new Float64Array(features);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        bias ? sums.set(bias) : sums.fill(0);
        for (let i = 0; i < rows; i++) {
          const y = row + i - (rows >> 1);
          if (y < 0 || y >= height) continue;
          for (let j = 0; j < columns; j++) {
            const z = column + j - (columns >> 1);
            if (z < 0 || z >= width) continue;
            const from = (y * width + z) * channels;
            for (let channel = 0; channel < channels; channel++) {
              const value = x.values[from + channel];
              if (value === 0) continue; // most of an image is black, and of what ReLU lets through
              const at = ((i * columns + j) * channels + channel) * features;
              for (let k = 0; k < features; k++) sums[k] += value * kernel[at + k];
            }
          }
        }
        out.values.set(sums, (row * width + column) * features);
      }
    }
    return out;
  },

  /** The maximum of each 2x2 window; an odd last row or column is dropped. */
  pool(x) {
    const { width, channels, values } = x;
    const out = volume(x.height >> 1, width >> 1, channels);
    let at = 0;
    for (let row = 0; row < out.height; row++) {
      for (let column = 0; column < out.width; column++) {
        for (let channel = 0; channel < channels; channel++) {
          const a = (2 * row * width + 2 * column) * channels + channel;
          const b = a + width * channels;
          out.values[at++] = Math.max(values[a], values[a + channels], values[b], values[b + channels]);
        }
      }
    }
    return out;
  },

  /** Batch norm with the statistics of training, folded into a factor and an offset a channel. */
  norm: (x, { factor, offset }) =>
    mapped(x, (value, index) => value * factor[index % x.channels] + offset[index % x.channels]),

  relu: (x) => mapped(x, (value) => Math.max(value, 0)),

  /** The mean over all pixels. */
  mean(x) {
    const sums = new Float64Array(x.channels);
    x.values.forEach((value, index) => (sums[index % x.channels] += value));
    return { ...volume(1, 1, x.channels), values: Float32Array.from(sums, (sum) => sum / (x.height * x.width)) };
  },

  flatten: (x) => ({ height: 1, width: 1, channels: x.values.length, values: x.values }),

  /** A dense layer sees what a convolution by one pixel sees. */
  dense: (x, arrays, shape) => OPERATIONS.conv(x, arrays, [1, 1, ...shape]),
};

function volume(height, width, channels) {
  return { height, width, channels, values: new Float32Array(height * width * channels) };
}

function mapped(x, change) {
  return { ...x, values: x.values.map(change) };
}

/** Gives each layer its arrays: `floats` are all numbers of the network, in the order of the layers. */
function withWeights(layers, floats) {
  let start = 0;
  return layers.map((layer) => {
    const arrays = {};
    for (const [name, shape] of Object.entries(layer.arrays)) {
      const size = shape.reduce((product, side) => product * side, 1);
      arrays[name] = floats.subarray(start, (start += size));
    }
    return { ...layer, weights: arrays };
  });
}

/** What comes out of each layer for an image, bytes from 0 (black) to 255; the last has the logits. */
function outputs(layers, pixels, height, width) {
  let x = { height, width, channels: 1, values: Float32Array.from(pixels, (byte) => byte / 255) };
  return layers.map((layer) => (x = OPERATIONS[layer.op](x, layer.weights, layer.arrays.kernel)));
}

function logits(layers, pixels, height, width) {
  return Array.from(outputs(layers, pixels, height, width).at(-1).values);
}

function softmax(values) {
  const largest = Math.max(...values); // exp of large numbers would overflow
  const each = values.map((value) => Math.exp(value - largest));
  const sum = each.reduce((total, value) => total + value);
  return each.map((value) => value / sum);
}

/** The bytes of a text in base64; atob would do, but is not there without a browser, where tests run this. */
function bytesOf(base64) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const sixBits = new Uint8Array(128);
  [...letters].forEach((letter, index) => (sixBits[letter.charCodeAt(0)] = index));
  const text = base64.replace(/=+$/, "");
  const bytes = new Uint8Array((text.length * 3) >> 2);
  let held = 0;
  for (let i = 0, at = 0; i < text.length; i++) {
    held = (held << 6) | sixBits[text.charCodeAt(i)];
    if (i % 4) bytes[at++] = held >> (6 - 2 * (i % 4)); // the higher bits fall off
  }
  return bytes;
}

function floatsOf(base64) {
  return new Float32Array(bytesOf(base64).buffer);
}
