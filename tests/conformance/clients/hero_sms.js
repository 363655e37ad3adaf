/* axios; an HTTP status other than 200 is axios' own error, the word stays in its response.

package: hero-sms
from: npm
path: /stubs/handler_api.php
moved by: the option `baseUrl`
calls: balance prices countries services operators top number number_v2 waiting ready code text again open finish cancel history more rent_offers rent bad_key no_numbers bad_service
note: at `/hero`, where refusals have a status as in the shop it is for, it gets them from axios and reads none of them
*/
const { HeroSMSClient, AuthenticationError, NoNumbersError, HeroSMSError } = require("hero-sms");
const { url, key, same, holds, refusal, until, raw, available, lastCode, isOver, main } = require("../driver.js");

const client = new HeroSMSClient({ apiKey: key, baseUrl: url });
const coded = async (id) => until(async () => (({ status, code }) => status === "STATUS_OK" && code)(await client.getStatus(id)));
let bought, other;

main({
  async balance() {
    same(await client.getBalance(), await available());
  },
  async prices() {
    holds((await client.getPrices({ service: "tg", country: 6 }))["6"].tg.cost > 0, "the price");
  },
  async countries() {
    same((await client.getCountries())["6"].eng, "Indonesia");
  },
  async services() {
    holds((await client.getServicesList({ lang: "en" })).services.some(({ code }) => code === "wa"), "WhatsApp");
  },
  async operators() {
    holds((await client.getOperators(6)).countryOperators["6"].includes("telkomsel"), "the operator");
  },
  async top() {
    holds((await client.getTopCountriesByService({ service: "tg" }))["0"].price > 0, "the price");
    holds((await client.getTopCountriesByServiceRank({ service: "tg" }))["0"].price > 0, "the price by rank");
  },
  async number() {
    bought = await client.getNumber({ service: "tg", country: 6, maxPrice: 10 });
    holds(bought.phoneNumber.startsWith("62"), "the number");
  },
  async number_v2() {
    const before = await available();
    other = await client.getNumberV2({ service: "tg", country: 6, maxPrice: 10 });
    holds(Math.abs(before - other.activationCost - (await available())) < 0.00001, "what it cost");
  },
  async waiting() {
    same((await client.getStatus(bought.activationId)).status, "STATUS_WAIT_CODE");
  },
  async ready() {
    same(await client.markReady(bought.activationId), "ACCESS_READY");
  },
  async code() {
    same(await coded(bought.activationId), await lastCode(bought.activationId));
  },
  async text() {
    const { sms } = await client.getStatusV2(bought.activationId);
    holds(sms.text.includes(await lastCode(bought.activationId)), "the text");
  },
  async again() {
    same(await client.requestResend(bought.activationId), "ACCESS_RETRY_GET");
    same(await coded(bought.activationId), await lastCode(bought.activationId));
  },
  async open() {
    const listed = (await client.getActiveActivations()).activeActivations.map((row) => row.activationId);
    same(listed.join(), `${bought.activationId},${other.activationId}`);
  },
  async finish() {
    same(await client.complete(bought.activationId), "ACCESS_ACTIVATION");
    holds(await isOver(bought.activationId, "6"), "its end");
  },
  async cancel() {
    const before = await available();
    const third = await client.getNumber({ service: "tg", country: 6 });
    same(await client.cancel(third.activationId), "ACCESS_CANCEL");
    same(await available(), before);
  },
  async history() {
    same((await client.getHistory({ size: 10 })).length, 3);
  },
  // What the newer shop has and the original had not: its word for that is read.
  async more() {
    same((await refusal(() => client.getReactivationPrice(bought.activationId))).code, "BAD_ACTION");
    same((await refusal(() => client.finishActivation(bought.activationId))).code, "BAD_ACTION");
  },
  async rent_offers() {
    holds(Object.keys((await client.getRentServicesAndCountries({ country: 6, duration: 4 })).services).length, "an offer");
  },
  async rent() {
    holds((await client.getRentNumber({ service: "tg", country: 6, duration: 4 })).phone.id, "the rental");
    holds((await raw("getRentList")).includes("success"), "the list");
  },
  async bad_key() {
    const stranger = new HeroSMSClient({ apiKey: "wrong", baseUrl: url });
    holds((await refusal(() => stranger.getBalance())) instanceof AuthenticationError, "the refusal");
  },
  async no_numbers() {
    holds((await refusal(() => client.getNumber({ service: "zz", country: 204 }))) instanceof NoNumbersError, "the refusal");
  },
  async bad_service() {
    const error = await refusal(() => client.getNumber({ service: "nonsense", country: 6 }));
    holds(error instanceof HeroSMSError && error.code === "BAD_SERVICE", "the refusal");
  },
});
