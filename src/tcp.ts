/**
 * TCP connection repair by itself: take a connection out of one socket and put it into another, in another process or on
 * another host. Its peer notices a pause. It takes root (CAP_NET_ADMIN, and CAP_NET_RAW for sides that are closed).
 *
 *   using lock = new TcpLock();            // in the process that has it
 *   lock.add(fd);                          // from here on its packets are dropped
 *   pause(fd);
 *   const saved = save(fd);                // bytes; send them where the connection shall go
 *   socket.destroy();                      // the peer is told nothing
 *
 *   const fd = restore(saved);             // in the other process, when the first socket is closed
 *   lock.close(); resume(fd);              // in this order
 *   new Socket({ fd, readable: true, writable: true });
 *
 * Bytes that wait on either side go along. Options of the socket (TCP_NODELAY, SO_KEEPALIVE, ...) don't. On another host the
 * address must be there before resume(); who moves it must see to it that no packet reaches a host that doesn't know the
 * connection, or the peer is told that it is gone.
 */
import type { Socket } from 'node:net';
import { engine } from './engine/libphaul.ts';
import type { TcpLock as Lock } from './engine/tcpConnections.ts';

export const { pause, save, restore, resume } = engine.tcp;

/** Drops the packets of the connections that are added, until it is closed or this process ends. */
export class TcpLock implements Disposable {
  #lock: Lock | undefined = engine.tcp.lock();

  add(fd: number): void {
    this.#lock?.add(fd);
  }

  close(): void {
    this.#lock?.close();
    this.#lock = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The descriptor of a socket of node:net. */
export function fdOf(socket: Socket): number {
  const fd = (socket as Socket & { _handle?: { fd?: number } | null })._handle?.fd;
  if (fd === undefined || fd < 0) {
    throw new TypeError('This socket has no descriptor: it is not connected, or closed.');
  }
  return fd;
}
