/* axios; refusals by HTTP status, then by words in the message.

package: fivesim-api
from: npm
path: /v1
moved by: the classes' attributes `UserService.baseURL` and `GuestService.baseURL`
calls: balance prices countries services operators number waiting code text finish cancel history more rent rent_status rent_end bad_key no_numbers bad_service
fails no_numbers: 5sim says it with 200 and text, which it hands on as the order
*/
const { FiveSimAPI, UserService, GuestService, AuthenticationError, FiveSimError } = require("fivesim-api");
const { url, key, same, holds, refusal, until, available, lastCode, isOver, main } = require("../driver.js");

UserService.baseURL = url;
GuestService.baseURL = url;
const client = new FiveSimAPI(key);
const buy = (product = "telegram") => client.buyActivationNumber("indonesia", "any", product);
let order, message, rental;

main({
  async balance() {
    same((await client.getProfile()).balance, await available());
  },
  async prices() {
    holds((await FiveSimAPI.getPricesByCountryAndProduct("indonesia", "telegram")).indonesia.telegram, "the price");
    holds((await FiveSimAPI.getPricesByProduct("telegram")).telegram.indonesia, "the price");
  },
  async countries() {
    same((await FiveSimAPI.getCountries()).indonesia.prefix["+62"], 1);
  },
  async services() {
    holds((await FiveSimAPI.getProducts("indonesia", "any")).telegram.Price > 0, "the price");
  },
  async operators() {
    const best = await client.buyActivationNumber("indonesia", "best", "viber");
    same((await client.cancelOrder(best.id)).status, "CANCELED");
  },
  async number() {
    const before = await available();
    order = await buy();
    holds(Math.abs(before - order.price - (await available())) < 0.00001, "what it cost");
  },
  async waiting() {
    same((await client.checkOrder(order.id)).status, "PENDING");
  },
  async code() {
    [message] = await until(async () => ((sms) => sms && sms.length && sms)((await client.checkOrder(order.id)).sms));
    same(message.code, await lastCode(order.id));
  },
  async text() {
    holds(message.text.includes(message.code), "the text");
  },
  async finish() {
    same((await client.finishOrder(order.id)).status, "FINISHED");
    holds(await isOver(order.id, "6"), "its end");
  },
  async cancel() {
    const before = await available();
    same((await client.cancelOrder((await buy()).id)).status, "CANCELED");
    same((await client.banOrder((await buy()).id)).status, "BANNED");
    same(await available(), before);
  },
  async history() {
    holds((await client.getOrderHistory({ category: "activation" })).Data.some(({ id }) => id === order.id), "the order");
    same((await client.getPaymentHistory()).Total, 1);
  },
  async more() {
    const { message: why } = await refusal(() => client.reuseNumber("telegram", "6281234567890"));
    holds(why.includes("reuse not possible"), why);
  },
  async rent() {
    rental = await client.buyHostingNumber("indonesia", "any", "1day");
    holds(rental.phone.startsWith("+62"), "the number");
  },
  async rent_status() {
    holds((await client.getSMSInbox(rental.id)).Data, "the inbox");
  },
  async rent_end() {
    holds(["FINISHED", "CANCELED"].includes((await client.finishOrder(rental.id)).status), "its end");
  },
  async bad_key() {
    holds((await refusal(() => new FiveSimAPI("wrong").getProfile())) instanceof AuthenticationError, "the refusal");
  },
  async no_numbers() {
    await refusal(() => buy("aol"));
  },
  async bad_service() {
    holds((await refusal(() => buy("nonsense"))) instanceof FiveSimError, "the refusal");
  },
});
