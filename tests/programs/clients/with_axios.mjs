import { createRequire } from "node:module";
const axios = createRequire(`${process.env.NPM_FOLDER}/`)("axios");

const answer = await axios.get(process.argv[2], { responseType: "stream" });
for await (const chunk of answer.data) process.stdout.write(chunk);
