// Says what Nx did with each task, one sorted line each: `app:build remote 13522235323894311126`.
//
//   node outcome.mjs OUTPUT RUN_JSON
//
// The second word is `ran`, `remote` or `local`. It is read from what the
// user sees, the line `> nx run app:build  [remote cache]`, and must agree with the record that Nx
// keeps of the run; the hash comes from there.

import { readFileSync } from "node:fs";

const WORDS = new Map([
  [undefined, "ran"],
  ["remote cache", "remote"],
  ["local cache", "local"],
  ["existing outputs match the cache, left as is", "local"],
]);
const RECORDED = { ran: "cache-miss", remote: "remote-cache-hit", local: "local-cache-hit" };

function die(message) {
  console.error(message);
  process.exit(1);
}

const seen = new Map();
for (const line of readFileSync(process.argv[2], "utf8").split("\n")) {
  // Static style begins with `>`, newer summaries with a tick; colours were removed before.
  const match = /^\P{L}*nx run (\S+:\S+)(?:\s+\[(.+)\])?\s*$/u.exec(line);
  if (!match) continue;
  const word = WORDS.get(match[2]) ?? die(`Nx says an unknown "[${match[2]}]" of ${match[1]}`);
  if (seen.has(match[1])) die(`Nx reports ${match[1]} twice`);
  seen.set(match[1], word);
}

const { tasks } = JSON.parse(readFileSync(process.argv[3], "utf8"));
for (const task of tasks) {
  const word = seen.get(task.taskId) ?? die(`run.json names ${task.taskId}, which Nx did not print`);
  if (task.cacheStatus !== RECORDED[word]) {
    die(`Nx prints "${word}" of ${task.taskId}, its run.json says ${task.cacheStatus}`);
  }
  console.log(`${task.taskId} ${word} ${task.hash}`);
  seen.delete(task.taskId);
}
if (seen.size > 0) die(`Nx printed ${[...seen.keys()].join(", ")}, which run.json lacks`);
