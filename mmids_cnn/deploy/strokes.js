// Strokes as an image of the kind that the network was trained on: white on black, as MNIST's digits are.
//
// MNIST's were fitted into 20 of 28 pixels and centred by their mass (LeCun et al., Proc. IEEE 86, 1998); in its
// test images that mass lies at pixel 14.0, and lines are 2.5 pixels wide (medians). So what is scaled here is
// the stroke, not its picture: a line is as wide in a small drawing as in a large one. An own rasteriser gives
// the same image in every browser, a canvas does not.

const BOX = 20 / 28; // of the side of the image: the longer side of what is drawn, with the width of the pen
const PEN = 2.5 / 28; // width of a line
const EDGE = 1.2; // pixels over which a line fades into black; as much of a line is white as of MNIST's, 4 in 10
const SMALLEST = 0.08; // of the pad: what is smaller is a dot, and not made larger than one of that size
const MIDDLE = 14.0 / 28; // where the centre of mass goes, as an index of pixels

/**
 * The image of some strokes.
 *
 * @param strokes lists of points [x, y], in units of the side of the pad.
 * @returns bytes, row by row; null where there is no point.
 */
function imageOf(strokes, height, width) {
  const points = strokes.flat();
  if (!points.length) return null;
  const side = Math.min(height, width);
  const [left, right] = range(points.map(([x]) => x));
  const [top, bottom] = range(points.map(([, y]) => y));
  const scale = ((BOX - PEN) * side) / Math.max(right - left, bottom - top, SMALLEST);
  const radius = (PEN * side) / 2;
  const inside = (moved) => [ // as far as a line does not leave the image
    within(moved[0], radius - left * scale, width - 1 - radius - right * scale),
    within(moved[1], radius - top * scale, height - 1 - radius - bottom * scale),
  ];
  let moved = inside([(width - (left + right) * scale) / 2, (height - (top + bottom) * scale) / 2]);
  let image;
  for (let round = 0; round < 3; round++) { // first the middle of the box is there, then the centre of mass
    const placed = strokes.map((stroke) => stroke.map(([x, y]) => [x * scale + moved[0], y * scale + moved[1]]));
    image = rasterised(placed, height, width, radius);
    const [x, y] = centreOfMass(image, width);
    moved = inside([moved[0] + MIDDLE * width - x, moved[1] + MIDDLE * height - y]);
  }
  return image;
}

function within(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Lines of some radius: each pixel by how far its centre is from the nearest stroke. */
function rasterised(strokes, height, width, radius) {
  const nearest = new Float64Array(height * width).fill(Infinity);
  const reach = radius + EDGE;
  for (const stroke of strokes) {
    for (let i = 0; i < stroke.length; i++) {
      const [a, b] = [stroke[Math.max(i - 1, 0)], stroke[i]];
      const [firstX, lastX] = pixels(a[0], b[0], reach, width);
      const [firstY, lastY] = pixels(a[1], b[1], reach, height);
      for (let y = firstY; y <= lastY; y++) {
        for (let x = firstX; x <= lastX; x++) {
          const at = y * width + x;
          nearest[at] = Math.min(nearest[at], distance(x, y, a, b));
        }
      }
    }
  }
  return Uint8Array.from(nearest, (d) => Math.round(255 * within((radius - d) / EDGE + 0.5, 0, 1)));
}

/** First and last pixel that a line between two coordinates reaches. */
function pixels(from, to, reach, count) {
  const first = Math.ceil(Math.min(from, to) - reach);
  const last = Math.floor(Math.max(from, to) + reach);
  return [Math.max(first, 0), Math.min(last, count - 1)];
}

/** From a point to a segment, which may be a point too. */
function distance(x, y, [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1);
  const t = within(along, 0, 1);
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

function centreOfMass(image, width) {
  let [mass, x, y] = [0, 0, 0];
  image.forEach((value, index) => {
    mass += value;
    x += value * (index % width);
    y += value * Math.floor(index / width);
  });
  return mass ? [x / mass, y / mass] : [0, 0];
}

function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}
