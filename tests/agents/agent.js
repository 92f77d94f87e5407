#!/usr/bin/env node
// An agent in another language: the wire format of syscalls/wire.py, by hand, over fd 3.
//
//   agent.js [TEXT]     asks for the time, remembers TEXT, reads it back, exits with a value
//
// No package is needed: 60 lines of MessagePack are enough for what the kernel sends.
"use strict";

const net = require("node:net");

const CLOCK = 164, WRITE = 64, READ = 66, EXIT = 4;

function encode(value) {
  if (value === null || value === undefined) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === "number") {
    if (Number.isInteger(value) && value >= 0 && value < 128) return Buffer.from([value]);
    const buffer = Buffer.alloc(9);
    if (Number.isInteger(value)) { buffer[0] = 0xd3; buffer.writeBigInt64BE(BigInt(value), 1); }
    else { buffer[0] = 0xcb; buffer.writeDoubleBE(value, 1); }
    return buffer;
  }
  if (typeof value === "string") {
    const text = Buffer.from(value, "utf8");
    return Buffer.concat([head(0xdb, text.length), text]);
  }
  if (Array.isArray(value)) return Buffer.concat([head(0xdd, value.length), ...value.map(encode)]);
  const entries = Object.entries(value);
  const parts = entries.flatMap(([key, item]) => [encode(key), encode(item)]);
  return Buffer.concat([head(0xdf, entries.length), ...parts]);
}

function head(tag, length) {
  const buffer = Buffer.alloc(5);
  buffer[0] = tag;
  buffer.writeUInt32BE(length, 1);
  return buffer;
}

function decode(buffer) {
  let at = 0;
  const take = (size) => { at += size; return at - size; };
  const text = (size) => { const from = take(size); return buffer.toString("utf8", from, at); };
  const raw = (size) => { const from = take(size); return buffer.subarray(from, at); };
  const list = (size) => Array.from({ length: size }, value);
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [value(), value()]));
  const u16 = () => buffer.readUInt16BE(take(2));
  const u32 = () => buffer.readUInt32BE(take(4));
  function value() {
    const tag = buffer[take(1)];
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return list(tag & 15);
    if (tag < 0xc0) return text(tag & 31);
    if (tag >= 0xe0) return tag - 256;
    switch (tag) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return raw(buffer[take(1)]);
      case 0xc5: return raw(u16());
      case 0xc6: return raw(u32());
      case 0xcb: return buffer.readDoubleBE(take(8));
      case 0xcc: return buffer[take(1)];
      case 0xcd: return u16();
      case 0xce: return u32();
      case 0xcf: return Number(buffer.readBigUInt64BE(take(8)));
      case 0xd0: return buffer.readInt8(take(1));
      case 0xd1: return buffer.readInt16BE(take(2));
      case 0xd2: return buffer.readInt32BE(take(4));
      case 0xd3: return Number(buffer.readBigInt64BE(take(8)));
      case 0xd9: return text(buffer[take(1)]);
      case 0xda: return text(u16());
      case 0xdb: return text(u32());
      case 0xdc: return list(u16());
      case 0xdd: return list(u32());
      case 0xde: return map(u16());
      case 0xdf: return map(u32());
      default: throw new Error(`unexpected byte ${tag}`);
    }
  }
  return value();
}

class Kernel {
  constructor(fd) {
    this.seq = 0;
    this.waiting = new Map();
    this.held = Buffer.alloc(0);
    this.socket = new net.Socket({ fd, readable: true, writable: true });
    this.socket.on("data", (data) => this.feed(data));
    this.socket.on("end", () => process.exit(9));
  }

  call(number, args) {
    const seq = ++this.seq;
    const body = encode([seq, number, args]);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(body.length);
    this.socket.write(Buffer.concat([length, body]));
    return new Promise((resolve, reject) => this.waiting.set(seq, { resolve, reject }));
  }

  feed(data) {
    this.held = Buffer.concat([this.held, data]);
    while (this.held.length >= 4) {
      const size = this.held.readUInt32LE(0);
      if (this.held.length < 4 + size) return;
      const [seq, code, value] = decode(this.held.subarray(4, 4 + size));
      this.held = this.held.subarray(4 + size);
      const { resolve, reject } = this.waiting.get(seq);
      if (code === 0) resolve(value);
      else if (code > 0) reject(new Error(`${value.name}: ${value.message}`));
    }
  }
}

async function main() {
  const text = process.argv[2] || "a memory from another language: 来自另一种语言";
  const kernel = new Kernel(Number(process.env.ENGRAM_FD));
  const { now } = await kernel.call(CLOCK, {});
  const { rid } = await kernel.call(WRITE, { segment: "episodic", content: text });
  const { records } = await kernel.call(READ, { rid });
  console.log(`apid ${process.env.ENGRAM_APID} remembers: ${records[0].content}`);
  await kernel.call(EXIT, { status: 0, value: { rid, now, content: records[0].content } });
  process.exit(0);
}

main().catch((error) => { console.error(String(error)); process.exit(1); });
