// Verifies an access token as other Node backends would, as each library's own documentation does it:
// jsonwebtoken with jwks-rsa, express-jwt with jwks-rsa, and fast-jwt with get-jwks.
//
// usage: verify_others.mjs JWKS_URL TOKEN BASE_URL

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const jsonwebtoken = require("jsonwebtoken");
const jwksRsa = require("jwks-rsa");
const { expressjwt } = require("express-jwt");
const { createVerifier } = require("fast-jwt");
const buildGetJwks = require("get-jwks");

const [jwksUri, token, baseUrl] = process.argv.slice(2);
const expected = { issuer: baseUrl, audience: baseUrl };
const [head, payload, signature] = token.split(".");
const forged = `${head}.${payload}.${signature[0] === "A" ? "B" : "A"}${signature.slice(1)}`;

const client = jwksRsa({ jwksUri });
const keyOf = (header, done) => client.getSigningKey(header.kid, (error, key) => done(error, key?.getPublicKey()));
const byJsonwebtoken = (token) =>
  new Promise((resolve, reject) => {
    const options = { ...expected, algorithms: ["ES256"] };
    jsonwebtoken.verify(token, keyOf, options, (error, claims) => (error ? reject(error) : resolve(claims)));
  });

const middleware = expressjwt({ secret: jwksRsa.expressJwtSecret({ jwksUri }), algorithms: ["ES256"], ...expected });
const byExpressJwt = (token) =>
  new Promise((resolve, reject) => {
    const request = { method: "GET", headers: { authorization: `Bearer ${token}` } };
    middleware(request, {}, (error) => (error ? reject(error) : resolve(request.auth)));
  });

const getJwks = buildGetJwks({ jwksPath: "/.well-known/jwks.json" });
const key = ({ header: { kid, alg } }) => getJwks.getPublicKey({ kid, domain: baseUrl, alg });
const byFastJwt = createVerifier({ key, algorithms: ["ES256"], allowedIss: baseUrl, allowedAud: baseUrl });

for (const [name, verify] of Object.entries({ byJsonwebtoken, byExpressJwt, byFastJwt })) {
  const { sub } = await verify(token);
  const taken = await verify(forged).then(() => true, () => false);
  if (!sub || taken) throw new Error(`${name}: ${taken ? "took another signature" : "no sub"}`);
}
console.log("jsonwebtoken with jwks-rsa, express-jwt, fast-jwt: verified; refused another signature");
