// GETs entries as a client would, one after the other, and says of each on one line: hash, status, sha256 of the
// body, and whether TEXT is in the archive (`found`, `absent`, or `-` where there is none to look into).
//
//   node entries.mjs SERVER-URL TOKEN TEXT HASH...

import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";

const [server, token, text, ...hashes] = process.argv.slice(2);

for (const hash of hashes) {
  const headers = { authorization: `Bearer ${token}` };
  const answer = await fetch(`${server}/v1/cache/${hash}`, { headers, signal: AbortSignal.timeout(30_000) });
  const body = Buffer.from(await answer.arrayBuffer());
  const digest = createHash("sha256").update(body).digest("hex");
  const search = answer.status === 200 ? (gunzipSync(body).includes(text) ? "found" : "absent") : "-";
  console.log(hash, answer.status, digest, search);
}
