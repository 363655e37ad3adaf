// What a driver in JavaScript leans on. A driver exports nothing and calls `main` with an object that has a method for
// each call its head names; they run in the order of calls.py, and what rejects has failed.
const fs = require("fs");
const path = require("path");

const [, script, url, base, key] = process.argv;
const order = [...fs.readFileSync(path.join(__dirname, "calls.py"), "utf8").matchAll(/\bCall\(\s*"(\w+)"/g)].map((m) => m[1]);
const calls = /^[\s*]*calls: (.+)$/m.exec(fs.readFileSync(script, "utf8"))[1].trim().split(/\s+/);

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const same = (found, wanted) => {
  if (found !== wanted) throw new Error(`${JSON.stringify(found)} where ${JSON.stringify(wanted)} was due`);
};

const holds = (found, what) => {
  if (!found) throw new Error(`${what} is ${JSON.stringify(found)}`);
};

// The error a call rejects with; itself an error where it does not.
const refusal = async (call) => {
  let found;
  try {
    found = await call();
  } catch (error) {
    return error;
  }
  throw new Error(`${JSON.stringify(found)} where a refusal was due`);
};

const until = async (read) => {
  for (let i = 0; i < 200; i++) {
    const found = await read();
    if (found) return found;
    await pause(100);
  }
  throw new Error("nothing came");
};

// The gateway's own answer in the reference dialect: what the client's is compared with.
const raw = async (action, parameters = {}) => {
  const query = new URLSearchParams({ api_key: key, action, ...parameters });
  return (await fetch(`${base}/stubs/handler_api.php?${query}`)).text();
};
const available = async () => parseFloat((await raw("getBalance")).split(":")[1]);
const lastCode = async (id) => JSON.parse(await raw("getStatusV2", { id })).sms.code;
const isOver = async (id, status) =>
  JSON.parse(await raw("getHistory")).some((row) => row.id === String(id) && row.status === status);

const main = async (driver) => {
  for (const name of order.filter((one) => calls.includes(one))) {
    try {
      await driver[name]();
      console.log(`ok ${name}`);
    } catch (error) {
      console.log(`no ${name} ${error.name}: ${error.message}`.replace(/\s+/g, " "));
      console.error(error);
    }
  }
};

module.exports = { url, base, key, pause, same, holds, refusal, until, raw, available, lastCode, isOver, main };
