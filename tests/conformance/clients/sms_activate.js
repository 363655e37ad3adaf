/* axios, POST with an empty body; it looks for error words anywhere in an answer.

package: sms-activate
from: npm
path: /stubs/handler_api.php
moved by: `client.session.defaults.baseURL`
calls: balance number waiting ready code again finish cancel bad_key no_numbers bad_service
fails balance: cuts the cents off (`lib/index.js`, getBalance)
*/
const SMSActivate = require("sms-activate");
const { InvalidAPIKey, NoFreeNumbers, BadService } = require("sms-activate/lib/exceptions");
const { url, key, same, holds, refusal, until, available, lastCode, isOver, main } = require("../driver.js");

const made = (token) => {
  const client = new SMSActivate(token);
  client.session.defaults.baseURL = url;
  return client;
};
const client = made(key);
let bought;

main({
  async balance() {
    await client.getNumber("tg", 6).then(({ id }) => client.setStatus(id, 8));
    const paid = await client.getNumber("vi", 6); // a price with cents
    same(await client.getBalance(), await available());
    await client.setStatus(paid.id, 8);
  },
  async number() {
    bought = await client.getNumber("tg", 6);
    holds(String(bought.number).startsWith("62"), "the number");
  },
  async waiting() {
    same(await client.getStatus(bought.id), "STATUS_WAIT_CODE");
    same(await client.getCode(bought.id), null);
  },
  async ready() {
    same(await client.setStatus(bought.id, 1), "ACCESS_READY");
  },
  async code() {
    same(await until(() => client.getCode(bought.id)), await lastCode(bought.id));
  },
  async again() {
    same(await client.setStatus(bought.id, 3), "ACCESS_RETRY_GET");
    same(await until(() => client.getCode(bought.id)), await lastCode(bought.id));
  },
  async finish() {
    same(await client.setStatus(bought.id, 6), "ACCESS_ACTIVATION");
    holds(await isOver(bought.id, "6"), "its end");
  },
  async cancel() {
    const before = await available();
    const other = await client.getNumber("tg", 6);
    same(await client.setStatus(other.id, 8), "ACCESS_CANCEL");
    same(await available(), before);
  },
  async bad_key() {
    holds((await refusal(() => made("wrong").getBalance())) instanceof InvalidAPIKey, "the refusal");
  },
  async no_numbers() {
    holds((await refusal(() => client.getNumber("zz", 204))) instanceof NoFreeNumbers, "the refusal");
  },
  async bad_service() {
    holds((await refusal(() => client.getNumber("nonsense", 6))) instanceof BadService, "the refusal");
  },
});
