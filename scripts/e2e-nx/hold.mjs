// A slow network, made on purpose: stands between Nx and the server and keeps the last byte of every
// upload until it is told to let go.
//
//   node hold.mjs PORT
//
// PORT is the server's on 127.0.0.1. Prints `listening PORT` with its own, then `held PATH` for each PUT
// whose body but the last byte was handed to the kernel; of a body larger than all socket buffers, the server
// must then have read most. SIGUSR1 lets go of everything held, and holds nothing from then on.

import { connect, createServer } from "node:net";

const HEAD_END = Buffer.from("\r\n\r\n");
const port = Number(process.argv[2]);

let holding = true;
const released = new Promise((resolve) => {
  process.once("SIGUSR1", () => {
    holding = false;
    resolve();
  });
});

// One request after the other, as Nx sends them: HTTP/1.1, each PUT with its Content-Length.
async function forward(client, upstream) {
  const send = (bytes) =>
    new Promise((sent, failed) => upstream.write(bytes, (error) => (error ? failed(error) : sent())));
  let head = Buffer.alloc(0);
  let path = "";
  let left = 0;

  for await (let chunk of client) {
    while (chunk.length > 0) {
      if (left === 0) {
        head = Buffer.concat([head, chunk]);
        const end = head.indexOf(HEAD_END);
        if (end < 0) break;
        chunk = head.subarray(end + HEAD_END.length);
        head = head.subarray(0, end + HEAD_END.length);
        path = head.toString("latin1").split(" ")[1];
        left = Number(/^content-length: *(\d+)/im.exec(head.toString("latin1"))?.[1] ?? 0);
        await send(head);
        head = Buffer.alloc(0);
      } else if (holding && left === 1) {
        console.log(`held ${path}`);
        await released;
      } else {
        const part = chunk.subarray(0, holding ? left - 1 : left);
        await send(part);
        left -= part.length;
        chunk = chunk.subarray(part.length);
      }
    }
  }
  upstream.end();
}

// Each side may close its half and still be heard: a server that refuses an upload answers, closes, and reads on.
const server = createServer({ allowHalfOpen: true }, (client) => {
  const upstream = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const cut = () => {
    client.destroy();
    upstream.destroy();
  };
  client.on("error", cut).on("close", cut);
  upstream.on("error", cut);
  upstream.pipe(client);
  forward(client, upstream).catch(cut);
});

server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
