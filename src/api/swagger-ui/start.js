// The page says which document it shows, and whether its calls can be tried here.
const page = document.querySelector("#swagger-ui").dataset;
SwaggerUIBundle({
  url: page.document,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  supportedSubmitMethods: page.calls === "here" ? ["get", "put", "post", "patch"] : [],
});
