// Prints what a workspace's tasks left behind, one line a path, so that two states can be compared by diff:
// type, mode, then sha256 and size of a file or the target of a link, and the path as JSON.
//
//   node manifest.mjs [--follow] WORKSPACE
//
// --follow reports what a link points to in place of the link, for the Nx versions that pack links as copies.

import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";

const follow = process.argv[2] === "--follow";
const root = process.argv[follow ? 3 : 2];
const lines = [];

function children(directory) {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}

function walk(path) {
  const full = join(root, path);
  const status = follow ? statSync(full) : lstatSync(full, { throwIfNoEntry: false });
  if (!status) return;
  const mode = (status.mode & 0o7777).toString(8).padStart(4, "0");
  if (status.isSymbolicLink()) {
    // The mode of a link means nothing, and differs between systems.
    lines.push(`link ---- -> ${JSON.stringify(readlinkSync(full))} ${JSON.stringify(path)}`);
  } else if (status.isDirectory()) {
    lines.push(`dir  ${mode} ${JSON.stringify(path)}`);
    for (const name of children(full)) walk(join(path, name));
  } else {
    const content = readFileSync(full);
    const digest = createHash("sha256").update(content).digest("hex");
    lines.push(`file ${mode} ${digest} ${content.length} ${JSON.stringify(path)}`);
  }
}

for (const group of ["packages", "burst"]) {
  for (const project of children(join(root, group))) {
    for (const name of children(join(root, group, project))) {
      if (name === "dist") walk(join(group, project, name));
    }
  }
}
for (const name of children(join(root, "out"))) walk(join("out", name));

process.stdout.write(lines.sort().join("\n") + "\n");
