import { createRequire } from "node:module";
const { EnvHttpProxyAgent, fetch } = createRequire(`${process.env.NPM_FOLDER}/`)("undici");

const answer = await fetch(process.argv[2], { dispatcher: new EnvHttpProxyAgent() });
if (!answer.ok) throw new Error(`status ${answer.status}`);
for await (const chunk of answer.body) process.stdout.write(chunk);
