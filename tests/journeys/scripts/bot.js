// Plain http, split(':'), strict equality. Arguments: URL, key, service.
const http = require("http");
const [url, key, service] = process.argv.slice(2);

const api = (action, more = "") =>
  new Promise((resolve, reject) => {
    http
      .get(`${url}?api_key=${key}&action=${action}${more}`, (response) => {
        if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
        let body = "";
        response.on("data", (chunk) => (body += chunk));
        response.on("end", () => resolve(body));
      })
      .on("error", reject);
  });

const must = (wanted, answer) => {
  if (answer !== wanted) throw new Error(`wanted ${wanted}, got ${JSON.stringify(answer)}`);
};

const code = async (id) => {
  for (let i = 0; i < 150; i++) {
    const [status, value] = (await api("getStatus", `&id=${id}`)).split(":");
    if (status === "STATUS_OK") return value;
    if (status !== "STATUS_WAIT_CODE" && status !== "STATUS_WAIT_RETRY") throw new Error(`unknown ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("no code");
};

(async () => {
  const bought = JSON.parse(await api("getNumberV2", `&service=${service}&country=6&maxPrice=10&operator=undefined`));
  if (bought.canGetAnotherSms !== "1" || typeof bought.activationCost !== "number") throw new Error("not as typed");
  const id = bought.activationId;
  must("ACCESS_READY", await api("setStatus", `&id=${id}&status=1`));
  const first = await code(id);
  must("ACCESS_RETRY_GET", await api("setStatus", `&id=${id}&status=3`));
  const second = await code(id);
  must("ACCESS_ACTIVATION", await api("setStatus", `&id=${id}&status=6`));
  const [token, other] = (await api("getNumber", `&service=${service}&country=6`)).split(":");
  must("ACCESS_NUMBER", token);
  must("ACCESS_CANCEL", await api("setStatus", `&id=${other}&status=8`));
  console.log(`OK:${bought.phoneNumber}:${first}:${second}`);
})().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
