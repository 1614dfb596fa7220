// A k2cp/1 engine in JavaScript without dependencies: int4_unpack, int4_linear, rms_norm and route.
// k2conf run "stdio:node engine.mjs"
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

const TYPES = { F32: Float32Array, I32: Int32Array, I64: BigInt64Array, I8: Int8Array };

function bfloat16(buffer) {  // the bits are the upper half of a float32
  return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
}

function readArrays(path) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + length));
  const arrays = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const bytes = Uint8Array.from(file.subarray(8 + length + from, 8 + length + to)).buffer;
    if (dtype !== "BF16" && !TYPES[dtype]) throw new Error(`${name} has type ${dtype}`);
    arrays[name] = { shape, data: dtype === "BF16" ? bfloat16(bytes) : new TYPES[dtype](bytes) };
  }
  return arrays;
}

function writeArrays(path, arrays) {
  const header = {}, parts = [];
  let at = 0;
  for (const [name, { shape, data }] of Object.entries(arrays)) {
    const dtype = Object.keys(TYPES).find((key) => data instanceof TYPES[key]);
    header[name] = { dtype, shape, data_offsets: [at, (at += data.byteLength)] };
    parts.push(Buffer.from(data.buffer));
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

// element i of a row: bits 4 (i mod 8) … of word i // 8, stored + 8
const code = (words, perRow, row, i) => ((words[row * perRow + (i >> 3)] >>> (4 * (i & 7))) & 15) - 8;

const operations = {
  int4_unpack({ packed_MP: { shape: [M, P], data } }, { columns }) {
    const codes = new Int8Array(M * columns);
    for (let m = 0; m < M; m++)
      for (let i = 0; i < columns; i++) codes[m * columns + i] = code(data, P, m, i);
    return { codes_ML: { shape: [M, columns], data: codes } };
  },

  int4_linear({ x_TL, packed_MP, scale_MG }, { group_size }) {
    const [T, L] = x_TL.shape, [M, P] = packed_MP.shape, G = scale_MG.shape[1];
    const out = new Float32Array(T * M);
    for (let t = 0; t < T; t++)
      for (let m = 0; m < M; m++) {
        let sum = 0;
        for (let i = 0; i < L; i++) {
          const weight = code(packed_MP.data, P, m, i) * scale_MG.data[m * G + Math.floor(i / group_size)];
          sum += x_TL.data[t * L + i] * weight;
        }
        out[t * M + m] = sum;
      }
    return { out_TM: { shape: [T, M], data: out } };
  },

  rms_norm({ x_TD: { shape: [T, D], data }, gain_D }, { eps }) {
    const out = new Float32Array(T * D);
    for (let t = 0; t < T; t++) {
      let square = 0;
      for (let d = 0; d < D; d++) square += data[t * D + d] ** 2;
      const inverse = 1 / Math.sqrt(square / D + eps);
      for (let d = 0; d < D; d++) out[t * D + d] = data[t * D + d] * inverse * gain_D.data[d];
    }
    return { out_TD: { shape: [T, D], data: out } };
  },

  route({ logits_TE: { shape: [T, E], data }, bias_E }, { top_k, scale, n_group }) {
    if (n_group !== 1) throw new NotOffered("one group only, as in every Kimi K2");
    const experts = new BigInt64Array(T * top_k), weights = new Float32Array(T * top_k);
    for (let t = 0; t < T; t++) {
      const scores = Float32Array.from(data.subarray(t * E, (t + 1) * E), (z) => 1 / (1 + Math.exp(-z)));
      const biased = Float32Array.from(scores, (s, e) => s + bias_E.data[e]);
      const chosen = [...biased.keys()].sort((a, b) => biased[b] - biased[a]).slice(0, top_k);  // stable
      const sum = chosen.reduce((total, e) => total + scores[e], 0);
      chosen.forEach((e, k) => {
        experts[t * top_k + k] = BigInt(e);
        weights[t * top_k + k] = (scores[e] / sum) * scale;
      });
    }
    return { experts_TK: { shape: [T, top_k], data: experts }, weights_TK: { shape: [T, top_k], data: weights } };
  },
};

class NotOffered extends Error {}

function answer({ cmd, op, args, inputs, outputs }) {
  if (cmd === "hello")
    return { name: "example-js", version: "1.0", precision: "f32", ops: Object.keys(operations) };
  if (cmd === "bye") return {};
  if (cmd !== "op" || !operations[op]) throw new NotOffered(`no ${op ?? cmd} here`);
  writeArrays(outputs, operations[op](readArrays(inputs), args));
  return {};
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  let reply;
  try {
    reply = { result: answer(question) };
  } catch (error) {
    const skipped = error instanceof NotOffered;
    reply = skipped ? { skipped: { reason: error.message } } : { errored: { message: error.message } };
  }
  process.stdout.write(JSON.stringify(reply) + "\n");
  if (question.cmd === "bye") break;
}
