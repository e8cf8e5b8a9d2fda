// The page says which document it shows, and whether its calls can be tried here.
const page = document.querySelector("#swagger-ui").dataset;
SwaggerUIBundle({
  url: page.document,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  // Swagger UI shows the example of a media type with "json" in its name as JSON: of NDJSON, which is a text,
  // a text in quotes. What is sent are the lines in it.
  requestInterceptor: (request) => {
    const type = request.headers?.["Content-Type"] ?? "";
    if (type.includes("ndjson") && typeof request.body === "string" && request.body.trimStart().startsWith('"')) {
      request.body = JSON.parse(request.body);
    }
    return request;
  },
  supportedSubmitMethods: page.calls === "here" ? ["get", "put", "post", "patch"] : [],
});
