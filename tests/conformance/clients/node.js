/* Plain http, split(':'), strict equality; arguments as JavaScript makes them of nothing.

from: JavaScript (Node)
path: /stubs/handler_api.php
calls: balance number number_v2 waiting ready code again finish cancel bad_key no_numbers bad_service
*/
const http = require("http");
const { url, key, same, holds, main } = require("../driver.js");

const get = (address) =>
  new Promise((resolve, reject) => {
    http
      .get(address, (response) => {
        if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
        let body = "";
        response.on("data", (chunk) => (body += chunk));
        response.on("end", () => resolve(body));
      })
      .on("error", reject);
  });
const api = (action, more = "") => get(`${url}?api_key=${key}&action=${action}${more}`);

const code = async (id) => {
  for (let i = 0; i < 150; i++) {
    const [status, value] = (await api("getStatus", `&id=${id}`)).split(":");
    if (status === "STATUS_OK") return value;
    if (status !== "STATUS_WAIT_CODE" && status !== "STATUS_WAIT_RETRY") throw new Error(`unknown ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("no code");
};
let id, other, first;

main({
  async balance() {
    holds(/^ACCESS_BALANCE:\d+\.\d+$/.test(await api("getBalance")), "the balance");
  },
  async number() {
    const [token, number, phone] = (await api("getNumber", "&service=tg&country=6&ref=undefined")).split(":");
    same(token, "ACCESS_NUMBER");
    holds(phone.startsWith("62"), "the number");
    other = number;
  },
  async number_v2() {
    const bought = JSON.parse(await api("getNumberV2", "&service=tg&country=6&maxPrice=10&operator=undefined"));
    if (bought.canGetAnotherSms !== "1" || typeof bought.activationCost !== "number") throw new Error("not as typed");
    id = bought.activationId;
  },
  async waiting() {
    same(await api("getStatus", `&id=${id}`), "STATUS_WAIT_CODE");
  },
  async ready() {
    same(await api("setStatus", `&id=${id}&status=1`), "ACCESS_READY");
  },
  async code() {
    first = await code(id);
    holds(/^\d{4,8}$/.test(first), "the code");
  },
  async again() {
    same(await api("setStatus", `&id=${id}&status=3`), "ACCESS_RETRY_GET");
    holds((await code(id)) !== first, "the second code");
  },
  async finish() {
    same(await api("setStatus", `&id=${id}&status=6`), "ACCESS_ACTIVATION");
    await code(other);
    same(await api("setStatus", `&id=${other}&status=6`), "ACCESS_ACTIVATION");
  },
  async cancel() {
    const before = await api("getBalance");
    const [, third] = (await api("getNumber", "&service=tg&country=6")).split(":");
    same(await api("setStatus", `&id=${third}&status=8`), "ACCESS_CANCEL");
    same(await api("getBalance"), before);
  },
  async bad_key() {
    same(await get(`${url}?api_key=wrong&action=getBalance`), "BAD_KEY");
  },
  async no_numbers() {
    same(await api("getNumber", "&service=zz&country=204"), "NO_NUMBERS");
  },
  async bad_service() {
    same(await api("getNumber", "&service=nonsense&country=6"), "BAD_SERVICE");
  },
});
