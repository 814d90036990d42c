const answer = await fetch(process.argv[2]);
if (!answer.ok) throw new Error(`status ${answer.status}`);
for await (const chunk of answer.body) process.stdout.write(chunk);
