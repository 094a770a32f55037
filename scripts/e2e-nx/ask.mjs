// GETs one entry as a client would: node ask.mjs URL TOKEN|- BODY-FILE HEAD-FILE. Prints the status.
import { writeFileSync } from 'node:fs';

const [url, token, bodyFile, headFile] = process.argv.slice(2);
const headers = token === '-' ? {} : { authorization: `Bearer ${token}` };
const answer = await fetch(url, { headers, signal: AbortSignal.timeout(30_000) });
writeFileSync(bodyFile, Buffer.from(await answer.arrayBuffer()));
writeFileSync(headFile, [...answer.headers].map(([name, value]) => `${name}: ${value}\n`).join(''));
process.stdout.write(String(answer.status));
