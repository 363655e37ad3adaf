/* Its own axios inside one bundle; every refusal is one error without a word of it.

package: 5sim-api
from: npm
path: /v1/
moved by: `defaults.baseURL` of the four parts' `api`
calls: balance number code finish cancel history rent bad_key no_numbers bad_service
fails finish: `finishNumber` asks for a cancel, which 5sim refuses once there is a message (`dist/index.js`)
fails no_numbers: 5sim says it with 200 and text, of which it makes an order with nothing in it
note: its bundle is an ES module and does not say so: Node 20 loads it with `--experimental-detect-module`, Node 22 as it is
*/
const { url, key, same, holds, refusal, available, lastCode, isOver, main } = require("../driver.js");

let FiveSim, client, order;
const made = (token) => {
  const found = new FiveSim(token);
  for (const part of [found.balance, found.orderHistory, found.number, found.sms]) part.api.defaults.baseURL = url;
  return found;
};
const buy = (product = "telegram") => client.buyActivationNumber({ country: "indonesia", operator: "any", product });

const drive = {
  async balance() {
    same((await client.getUserBalance()).balance, await available());
  },
  async number() {
    const before = await available();
    order = await buy();
    holds(Math.abs(before - order.price - (await available())) < 0.00001, "what it cost");
  },
  async code() {
    const message = await client.waitForSMS({ id: order.id, timeout: 20000, interval: 100 });
    same(message.code, await lastCode(order.id));
  },
  async finish() {
    same((await client.finishNumber(order.id)).status, "FINISHED");
    holds(await isOver(order.id, "6"), "its end");
  },
  async cancel() {
    const before = await available();
    same((await client.cancelNumber((await buy()).id)).status, "CANCELED");
    same((await client.banNumber((await buy()).id)).status, "BANNED");
    same(await available(), before);
  },
  async history() {
    holds((await client.getOrderHistory("activation")).Data.some(({ id }) => id === order.id), "the order");
  },
  async rent() {
    holds((await client.buyHostingNumber({ country: "indonesia", operator: "any", product: "1day" })).phone, "the number");
  },
  async bad_key() {
    await refusal(() => made("wrong").getUserBalance());
  },
  async no_numbers() {
    await refusal(() => buy("aol"));
  },
  async bad_service() {
    await refusal(() => buy("nonsense"));
  },
};

import(require.resolve("5sim-api")).then((library) => {
  FiveSim = library.FiveSim;
  client = made(key);
  return main(drive);
});
