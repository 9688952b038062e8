import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export interface Proxy {
  url: string;
  /** How many connections were cut so far. */
  cuts(): number;
  close(): void;
}

/** Forward connections, and cut each GET after some bytes of its answer, later each time. */
export async function cuttingProxy(service: URL): Promise<Proxy> {
  let cuts = 0;
  const open = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(Number(service.port), service.hostname);
    for (const socket of [near, far]) {
      open.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        open.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    let left = Infinity;
    near.on("data", (data: Buffer) => {
      const cutting = data.toString("latin1").startsWith("GET /api/");
      left = cutting ? 1500 + cuts * 700 : Infinity;
      far.write(data);
    });
    far.on("data", (data: Buffer) => {
      if (data.length < left) {
        left -= data.length;
        near.write(data);
        return;
      }
      cuts += 1;
      near.end(data.subarray(0, left), () => near.destroy());
      far.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    cuts: () => cuts,
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}
