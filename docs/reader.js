import { tableFromIPC } from "apache-arrow";

/** One tile per row of a part; `bytes` is the whole file as a Uint8Array. */
export const tiles = (bytes) => tableFromIPC(bytes).toArray();

/** The weights of a tile as Float32Array (rows x cols), or the raw bytes of a raw one. */
export function decode(tile) {
  if (tile.codec === "raw") return tile.codes.slice();
  const [rows, cols] = [tile.rows, tile.cols].map(Number);
  const value = CODECS[tile.codec](tile, cols, unpacked(tile.codes, rows, tile.bits));
  const at = (_, i) => value(Math.floor(i / cols), i % cols);
  const values = Float32Array.from({ length: rows * cols }, at);
  if (tile.rotation) turnBack(values, cols, tile.rotation);
  const factors = floats(tile.col_scale);
  return factors ? values.map((v, i) => v / factors[i % cols]) : values;
}

const floats = (list) => list && Float32Array.from(list);

/** (row, column) -> code, of rows of packed codes. */
function unpacked(codes, rows, bits) {
  const stride = codes.length / rows;
  return (r, c) => {
    const at = r * stride + ((c * bits) >> 3);
    return ((codes[at] | (codes[at + 1] << 8)) >> ((c * bits) & 7)) & (2 ** bits - 1);
  };
}

/** Where the scale of a weight is. */
function grouped({ group_size: size }, cols) {
  const groups = size > 0 ? Math.ceil(cols / size) : 1;
  return (r, c) => (size < 0 ? 0 : r * groups + (size > 0 ? Math.floor(c / size) : 0));
}

function affine(tile, cols, code) {
  const [scales, mins, group] = [floats(tile.scales), floats(tile.mins), grouped(tile, cols)];
  return (r, c) => scales[group(r, c)] * code(r, c) + mins[group(r, c)];
}

function symmetric(tile, cols, code) {
  const [scales, zero, group] = [floats(tile.scales), 2 ** (tile.bits - 1), grouped(tile, cols)];
  return (r, c) => scales[group(r, c)] * (code(r, c) - zero);
}

const UPPER = { 2: [2, 7], 3: [5, 16, 29, 45], 4: [7, 20, 34, 49, 65, 84, 104, 127] };

function superblock(tile, cols, code) {
  const { bits, scale_bits: width, group_size: size } = tile;
  const upper = UPPER[bits];
  const levels = [...upper.map((level) => -level).reverse(), ...upper];
  const [rows, zero] = [Number(tile.rows), 2 ** (width - 1)];
  const [d, dm] = [floats(tile.scales), floats(tile.mins)];
  const [S, M] = [tile.scale_codes, tile.min_codes].map((codes) => unpacked(codes, rows, width));
  const blocks = Math.ceil(cols / 256);
  const digits = { 2: 3, 3: 6, 4: 7 }[bits];
  return (r, c) => {
    const [group, block] = [Math.floor(c / size), r * blocks + Math.floor(c / 256)];
    const s = (d[block] * S(r, group)) / 2 ** (width + digits);
    return s * levels[code(r, c)] + (dm[block] * (M(r, group) - zero)) / zero;
  };
}

function table(tile, cols, code) {
  const [scales, levels, group] = [floats(tile.scales), floats(tile.codebook), grouped(tile, cols)];
  return (r, c) => scales[group(r, c)] * levels[code(r, c)];
}

const FACTORS = { 2: 0xc52, 3: 0xe29, 4: 0xdee };

function trellis({ bits, codes, rows, scales: halves }, cols) {
  const [scales, stride, root] = [floats(halves), codes.length / Number(rows), (x) => x ** 0.125];
  const level = (W) => {
    let [a, u] = [FACTORS[bits], 0];
    for (let i = 0; i < 12; i++) {
      if ((W >> i) & 1) u ^= a;
      a = (a << 1) ^ ((a >> 11) * 0x1053);
    }
    const p = (2 * u + 1) / 8192;
    return Math.round(5517 * (root(p) - root(1 - p))) / 1024;
  };
  const levels = Array.from({ length: 4096 }, (_, W) => level(W));
  return (r, c) => {
    const [at, shift] = [(c * bits) >> 3, (c * bits) & 7];
    const bytes = [0, 1, 2].map((n) => codes[r * stride + ((at + n) % stride)] << (8 * n));
    return scales[r] * levels[((bytes[0] | bytes[1] | bytes[2]) >> shift) & 4095];
  };
}

const CODECS = { affine_u: affine, sym_s: symmetric, superblock, codebook: table, trellis };

/** Undo the rotation of every row, in place. */
function turnBack(values, cols, { block, seed }) {
  for (let distance = 1; distance < block; distance *= 2)
    for (let i = 0; i < values.length; i++)
      if (!(Math.floor(i / distance) & 1)) {
        const [x, y] = [values[i], values[i + distance]];
        [values[i], values[i + distance]] = [x + y, x - y];
      }
  const factor = Math.fround(1 / Math.sqrt(block));
  const signs = Array.from({ length: cols }, (_, c) => sign(BigInt(seed), BigInt(c)));
  values.forEach((v, i) => (values[i] = v * signs[i % cols] * factor));
}

function sign(seed, col) {
  const u64 = (n) => BigInt.asUintN(64, n);
  let z = u64(seed + (col + 1n) * 0x9e3779b97f4a7c15n);
  z = u64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = u64((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return (z ^ (z >> 31n)) >> 63n ? -1 : 1;
}
