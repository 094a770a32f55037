// Writes the Nx workspace of the end-to-end test: `node workspace.mjs DIRECTORY`.
//
// One project for each kind of output that an archive can get wrong, one that depends on all of them, one
// that always fails, and sixty that depend on nothing. What each task makes is in make.mjs, which is
// copied into the workspace. The caller adds node_modules.

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const BURST_COUNT = 60;
const KINDS = ["big", "links", "modes", "small", "unicode"];

const root = process.argv[2];
if (!root) {
  console.error("usage: node workspace.mjs DIRECTORY");
  process.exit(2);
}

function write(path, content) {
  const full = join(root, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, typeof content === "string" ? content : JSON.stringify(content, null, 2) + "\n");
}

function project(directory, name, targets, more = {}) {
  write(`${directory}/project.json`, { name, ...more, targets });
  write(`${directory}/src/source.txt`, `${name}, as first written\n`);
}

function target(name, more = {}) {
  return {
    executor: "nx:run-commands",
    options: { command: `node tools/make.mjs ${name}` },
    cache: true,
    inputs: ["default", "^default"],
    outputs: ["{projectRoot}/dist"],
    ...more,
  };
}

write("package.json", { name: "e2e", version: "0.0.0", private: true });
write(".gitignore", "node_modules\n.nx\ndist\nout\n");
write("nx.json", {
  namedInputs: { default: ["{projectRoot}/**/*", "{workspaceRoot}/tools/**/*"] },
  neverConnectToCloud: true,
  analytics: false,
});

for (const kind of KINDS) {
  project(`packages/${kind}`, kind, { build: target(kind) });
}

project(
  "packages/app",
  "app",
  // Two outputs, one of them a single file outside the project.
  { build: target("app", { dependsOn: ["^build"], outputs: ["{projectRoot}/dist", "{workspaceRoot}/out/app.txt"] }) },
  { implicitDependencies: KINDS },
);

project("packages/broken", "broken", { fail: target("broken") });

for (let i = 0; i < BURST_COUNT; i++) {
  const name = `unit${String(i).padStart(2, "0")}`;
  project(`burst/${name}`, name, { unit: target(name) });
}

// Every task runs it, and none has it among its inputs: whoever changes it changes what is built, and not
// one hash. That is how a pull request gets to store its own output as everybody's.
write("scripts/finish.mjs", "export function finish() {}\n");

mkdirSync(join(root, "tools"), { recursive: true });
copyFileSync(join(dirname(fileURLToPath(import.meta.url)), "make.mjs"), join(root, "tools/make.mjs"));
