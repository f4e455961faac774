import { tableFromIPC } from "apache-arrow";

/** One tile per row of a part; `bytes` is the whole file as a Uint8Array. */
export const tiles = (bytes) => tableFromIPC(bytes).toArray();

/** The weights of a tile as Float32Array (rows x cols), or the raw bytes of a raw one. */
export function decode(tile) {
  const { codec, bits, group_size: size, codes } = tile;
  const [rows, cols, stride] = [tile.rows, tile.cols, tile.row_stride_bytes].map(Number);
  if (codec === "raw") return codes.slice();
  const [scales, mins] = [tile.scales, tile.mins].map((half) => half && Float32Array.from(half));
  const groups = size > 0 ? Math.ceil(cols / size) : 1;
  return Float32Array.from({ length: rows * cols }, (_, i) => {
    const [r, c] = [Math.floor(i / cols), i % cols];
    const at = r * stride + ((c * bits) >> 3);
    const q = ((codes[at] | (codes[at + 1] << 8)) >> ((c * bits) & 7)) & (2 ** bits - 1);
    const group = size < 0 ? 0 : r * groups + (size > 0 ? Math.floor(c / size) : 0);
    return mins ? scales[group] * q + mins[group] : scales[group] * (q - 2 ** (bits - 1));
  });
}
