"""Pages about who acts: organizations, members, keys, projects, customers, the audit log."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.contexts import (
    CustomerFormPage,
    FormPage,
    ShownKey,
    get_api_key_list,
    get_audit_log,
    get_customer_list,
    get_invitation_page,
    get_member_list,
    get_project_list,
    project_choices,
    role_choices,
)
from accounts.domain import Role, Scope
from accounts.forms import (
    ApiKeyForm,
    CustomerForm,
    EnvironmentForm,
    InvitationForm,
    NewCustomerForm,
    NewOrganizationForm,
    OrganizationForm,
    ProjectForm,
    RotationForm,
)
from accounts.models import Organization
from accounts.pages import LAST_ORGANIZATION, add_errors, organization_page, read_or_post, render_page, visitor
from accounts.queries import (
    find_open_invitation,
    get_api_key,
    get_customer,
    get_customer_by_id,
    get_invitation,
    get_member,
    get_project,
    list_projects,
)
from accounts.services import (
    accept_invitation,
    change_member_role,
    create_customer,
    create_environment,
    create_organization,
    create_project,
    invite_member,
    issue_api_key,
    remove_member,
    revoke_api_key,
    rotate_api_key,
    update_customer,
    update_organization,
)
from accounts.services import revoke_invitation as withdraw_invitation
from common.errors import ApplicationError, InvalidInput, NotFound, PermissionRefused

# --- organizations --------------------------------------------------------------------------------------------


@require_safe
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """Lead to the organization looked at last, else to the first by name, else to founding one."""
    organizations = Organization.objects.filter(memberships__user=visitor(request))
    last = organizations.filter(pk=request.session.get(LAST_ORGANIZATION, 0)).first()
    organization = last or organizations.order_by("name", "pk").first()
    if organization is None:
        return redirect("accounts:new_organization")
    return redirect("metering:metric_list", organization.pk)


@read_or_post
@login_required
def new_organization(request: HttpRequest) -> HttpResponse:
    form = NewOrganizationForm(request.POST or None)
    if form.is_valid():
        founder = visitor(request)
        organization = create_organization(**form.cleaned_data, owner=founder, actor=f"user:{founder.email}")
        return redirect("metering:metric_list", organization.pk)
    return render(request, "accounts/new_organization.html", {"page": FormPage(form)})


@read_or_post
@organization_page
def organization_settings(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.ADMIN)
    # A copy: a form of a model writes what was typed into its instance, also when it is refused.
    instance = Organization.objects.get(pk=caller.organization.pk)
    form = OrganizationForm(request.POST or None, instance=instance)
    if form.is_valid():
        try:
            update_organization(organization=caller.organization, actor=caller.actor, changes=form.cleaned_data)
        except InvalidInput as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("accounts:organization_settings", caller.organization.pk)
    return render_page(request, caller, "accounts/organization_settings.html", FormPage(form), section="settings")


@require_safe
@organization_page
def audit_log(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.ADMIN)
    return render_page(request, caller, "accounts/audit_log.html", get_audit_log(request, caller), section="audit")


# --- members --------------------------------------------------------------------------------------------------


@never_cache
@read_or_post
@organization_page
def member_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The members; a POST invites somebody and shows the link once."""
    now = timezone.now()
    form = InvitationForm(request.POST or None, roles=role_choices(caller))
    link = email = ""
    if request.method == "POST":
        caller.require(Scope.ADMIN)
        if form.is_valid():
            try:
                issued = invite_member(
                    organization=caller.organization,
                    actor=caller.actor,
                    actor_role=caller.role,
                    email=form.cleaned_data["email"],
                    role=Role(form.cleaned_data["role"]),
                    now=now,
                )
            except ApplicationError as error:
                add_errors(form, error)
            else:
                link, email = f"{settings.PUBLIC_URL}/invitations/{issued.token}", issued.invitation.email
                form = InvitationForm(roles=role_choices(caller))
    page = get_member_list(caller, form=form, now=now, invitation_link=link, invitation_email=email)
    return render_page(request, caller, "accounts/member_list.html", page, section="members")


@require_POST
@organization_page
def change_role(request: HttpRequest, caller: Caller, member_id: int) -> HttpResponse:
    member = get_member(caller.organization, member_id)
    role = request.POST.get("role", "")
    if role not in Role.values:
        raise InvalidInput.of("role", "There is no such role.")
    changed = change_member_role(
        organization=caller.organization,
        actor=caller.actor,
        actor_role=caller.role,
        membership=member,
        role=Role(role),
    )
    messages.success(request, f"{member.user} is {changed.get_role_display().lower()} now.")
    return redirect("accounts:member_list", caller.organization.pk)


@require_POST
@organization_page
def remove(request: HttpRequest, caller: Caller, member_id: int) -> HttpResponse:
    member = get_member(caller.organization, member_id)
    remove_member(organization=caller.organization, actor=caller.actor, actor_role=caller.role, membership=member)
    if caller.actor == f"user:{member.user.email}":
        messages.success(request, f"You left {caller.organization}.")
        return redirect("accounts:home")
    messages.success(request, f"{member.user} is no longer a member.")
    return redirect("accounts:member_list", caller.organization.pk)


@require_POST
@organization_page
def revoke_invitation(request: HttpRequest, caller: Caller, invitation_id: int) -> HttpResponse:
    caller.require(Scope.ADMIN)
    invitation = get_invitation(caller.organization, invitation_id)
    withdraw_invitation(organization=caller.organization, actor=caller.actor, invitation=invitation, now=timezone.now())
    messages.success(request, f"The invitation of {invitation.email} is withdrawn.")
    return redirect("accounts:member_list", caller.organization.pk)


@never_cache
@read_or_post
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """The page behind an invitation's link. Whoever holds the token may see which organization invites whom."""
    now = timezone.now()
    found = find_open_invitation(token, now=now)
    if found is None:
        raise Http404("There is no such invitation.")
    if request.method == "POST" and request.user.is_authenticated:
        try:
            membership = accept_invitation(token=token, user=request.user, now=now)
        except NotFound as error:
            raise Http404(error.message) from error
        except PermissionRefused as error:
            return render(request, "common/refused.html", {"error": error}, status=error.status)
        messages.success(request, f"Welcome to {membership.organization}.")
        return redirect("metering:metric_list", membership.organization_id)
    return render(request, "accounts/invitation.html", {"page": get_invitation_page(found, request)})


# --- keys -----------------------------------------------------------------------------------------------------


@never_cache
@read_or_post
@organization_page
def api_key_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The keys; a POST makes one and shows its text, in the answer and never again."""
    caller.require(Scope.ADMIN)
    now = timezone.now()
    form = ApiKeyForm(request.POST or None)
    issued = None
    if form.is_valid():
        try:
            external_id = form.cleaned_data["customer"]
            key = issue_api_key(
                organization=caller.organization,
                actor=caller.actor,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                expires_at=form.expires_at(now),
                customer=get_customer(caller, external_id) if external_id else None,
            )
        except NotFound as error:
            form.add_error("customer", error.message)
        except InvalidInput as error:
            add_errors(form, error)
        else:
            issued = ShownKey(f"The key “{key.api_key.name}”", key.text)
            form = ApiKeyForm()
    page = get_api_key_list(caller, form=form, now=now, issued=issued)
    return render_page(request, caller, "accounts/api_key_list.html", page, section="keys")


@never_cache
@require_POST
@organization_page
def rotate_key(request: HttpRequest, caller: Caller, key_id: int) -> HttpResponse:
    caller.require(Scope.ADMIN)
    now = timezone.now()
    form = RotationForm(request.POST)
    if not form.is_valid():
        raise InvalidInput.of("grace", "Choose how long the old key stays valid.")
    old = get_api_key(caller.organization, key_id)
    new = rotate_api_key(
        organization=caller.organization, actor=caller.actor, api_key=old, now=now, grace=form.cleaned_data["grace"]
    )
    issued = ShownKey(f"The new key “{old.name}”", new.text, note="The old one works until its grace ends.")
    page = get_api_key_list(caller, form=ApiKeyForm(), now=now, issued=issued)
    return render_page(request, caller, "accounts/api_key_list.html", page, section="keys")


@require_POST
@organization_page
def revoke_key(request: HttpRequest, caller: Caller, key_id: int) -> HttpResponse:
    caller.require(Scope.ADMIN)
    api_key = get_api_key(caller.organization, key_id)
    revoke_api_key(organization=caller.organization, actor=caller.actor, api_key=api_key, now=timezone.now())
    messages.success(request, f"The key “{api_key.name}” is revoked.")
    return redirect("accounts:api_key_list", caller.organization.pk)


# --- projects -------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def project_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    return render_page(request, caller, "accounts/project_list.html", get_project_list(caller), section="projects")


@require_POST
@organization_page
def new_project(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    form = ProjectForm(request.POST, prefix="project")
    if form.is_valid():
        try:
            create_project(organization=caller.organization, actor=caller.actor, **form.cleaned_data)
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "The project is there.")
            return redirect("accounts:project_list", caller.organization.pk)
    page = get_project_list(caller, project_form=form)
    return render_page(request, caller, "accounts/project_list.html", page, section="projects")


@require_POST
@organization_page
def new_environment(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    choices = project_choices(list(list_projects(caller.organization).order_by("key")))
    form = EnvironmentForm(request.POST, prefix="environment", projects=choices)
    if form.is_valid():
        values = {**form.cleaned_data, "project": get_project(caller.organization, form.cleaned_data["project"])}
        try:
            create_environment(organization=caller.organization, actor=caller.actor, **values)
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "The environment is there.")
            return redirect("accounts:project_list", caller.organization.pk)
    page = get_project_list(caller, environment_form=form)
    return render_page(request, caller, "accounts/project_list.html", page, section="projects")


# --- customers ------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def customer_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_customer_list(request, caller)
    return render_page(request, caller, "accounts/customer_list.html", page, section="customers")


@read_or_post
@organization_page
def new_customer(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    form = NewCustomerForm(request.POST or None)
    if form.is_valid():
        try:
            customer = create_customer(organization=caller.organization, actor=caller.actor, **form.cleaned_data)
        except ApplicationError as error:
            add_errors(form, error)
        else:
            return redirect("metering:customer", caller.organization.pk, customer.pk)
    page = CustomerFormPage("New customer", form)
    return render_page(request, caller, "accounts/customer_form.html", page, section="customers")


@read_or_post
@organization_page
def edit_customer(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    customer = get_customer_by_id(caller, customer_id)
    form = CustomerForm(request.POST or None, initial=CustomerForm.initial_of(customer))
    if form.is_valid():
        try:
            update_customer(
                organization=caller.organization, actor=caller.actor, customer=customer, changes=form.cleaned_data
            )
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("metering:customer", caller.organization.pk, customer.pk)
    page = CustomerFormPage(f"Edit {customer.external_id}", form, customer)
    return render_page(request, caller, "accounts/customer_form.html", page, section="customers")
