// The work of every task in the workspace: `node tools/make.mjs PROJECT`, run in the workspace root.
//
// All output is random, the terminal output included: a task that ran again cannot look like one that was
// restored, so equal bytes mean that they came from the cache.

import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { finish } from "../scripts/finish.mjs";

const BIG_BYTES = 30_000_000;
const SMALL_FILES = 500;

const name = process.argv[2];
const nonce = randomBytes(12).toString("hex");

const makers = { app, big, broken, links, modes, small, unicode };
const directory = name.startsWith("unit") ? `burst/${name}` : `packages/${name}`;
const dist = join(directory, "dist");

rmSync(dist, { recursive: true, force: true });
console.log(`${name} made ${nonce}`);
(makers[name] ?? unit)();
finish(name, dist);

function put(path, content = `${path} ${randomBytes(8).toString("hex")}\n`) {
  const full = join(dist, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, content);
  return full;
}

function unit() {
  put("result.txt");
}

function big() {
  put("big.bin", randomBytes(BIG_BYTES));
}

function small() {
  for (let i = 0; i < SMALL_FILES; i++) {
    put(`d${i % 10}/file-${i}.txt`, randomBytes(i).toString("hex"));
  }
}

function unicode() {
  put("with some spaces/and more .txt");
  put("emoji 🚀🧑‍🚀.txt");
  put("日本語/ファイル.txt");
  put("composed é, decomposed e\u0301.txt");
  put("quotes ' \" and $HOME & (a) [b] {c};.txt");
  put("עברית.txt");
  // Longer than the 100 bytes of a classic tar name, and close to the 255 that a file system allows.
  put(`${"deep/".repeat(30)}${"ü".repeat(120)}.txt`);
  console.log(`${name} says Grüße, 世界 🚀`);
}

function links() {
  put("target.txt");
  put("directory/inside.txt");
  symlinkSync("target.txt", join(dist, "to-file"));
  symlinkSync("directory", join(dist, "to-directory"));
  symlinkSync("../target.txt", join(dist, "directory/to-parent"));
}

function modes() {
  put("empty.txt", "");
  for (const mode of [0o755, 0o750, 0o700, 0o664, 0o644, 0o640, 0o600, 0o444]) {
    chmodSync(put(`mode-${mode.toString(8)}`), mode);
  }
}

function app() {
  const wanted = ["big/dist/big.bin", "small/dist/d9/file-499.txt", "links/dist/to-file"];
  const missing = wanted.filter((path) => !existsSync(join("packages", path)));
  if (missing.length > 0) {
    console.error(`app needs ${missing.join(", ")}`);
    process.exit(1);
  }
  put("app.txt");
  mkdirSync("out", { recursive: true });
  writeFileSync("out/app.txt", `${nonce}\n`);
  console.error("app warns on stderr");
}

function broken() {
  put("half.txt");
  console.error("broken always fails");
  process.exit(3);
}
